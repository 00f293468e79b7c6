"""README.md and the pages of docs/: what they name exists, and what they show works."""

import argparse
import importlib
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from configs import base
from infoae_jax.cli import demo, evaluate, export, interpolate, report, train, transfer
from infoae_jax.config import flatten

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pages"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *FOLDER.glob("*.md"))}
SETTINGS = flatten(base.get_config().to_dict())
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
every_page = pytest.mark.parametrize("page", PAGES)
every_written_page = pytest.mark.parametrize("page", sorted(set(PAGES) - {"docs/pages/commands.md"}))


def anchors(text):
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def broken_links(page, text):
    """Those that lead nowhere, or out of the folder that becomes the site."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        exists = target.exists() and (not anchor or anchor in anchors(target.read_text()))
        if "://" not in link and not (exists and (page == "README.md" or FOLDER in target.resolve().parents)):
            yield link


@every_page
def test_links(page):
    assert list(broken_links(page, PAGES[page])) == []


def test_links_that_lead_nowhere_are_found():
    text = "[a](data.md) [b](data.md#the-cache) [c](#nowhere) [d](data.md#no) [e](no.md) [f](../../LICENSE) [g](https://x.y)"
    assert list(broken_links("docs/pages/python.md", text)) == ["#nowhere", "data.md#no", "no.md", "../../LICENSE"]


def test_every_page_can_be_reached_from_the_readme():
    links = set(re.findall(r"docs/pages/[\w-]+\.md", PAGES["README.md"]))
    assert links == set(PAGES) - {"README.md", "docs/pages/index.md"}
    navigation = re.findall(r"[\w-]+\.md", (ROOT / "docs" / "mkdocs.yml").read_text())
    assert sorted(navigation) == sorted(path.name for path in FOLDER.glob("*.md"))


@every_page
def test_files(page):
    paths = re.findall(r"(?<![\w/.])(?:infoae_jax|configs|benchmarks|examples|docs|tests)/[\w./-]*\w", PAGES[page])
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_files_of_each_room():
    rooms = re.findall(r"^\| `(\w+)/` \|(.*)$", PAGES["docs/pages/architecture.md"], re.M)
    assert {room for room, _ in rooms} == {path.parent.name for path in (ROOT / "infoae_jax").glob("*/__init__.py")}
    for room, line in rooms:
        assert [
            name for name in re.findall(r"`(\w+\.py)`", line) if not (ROOT / "infoae_jax" / room / name).exists()
        ] == []


@every_page
def test_python_names(page):
    for name in set(re.findall(r"\binfoae_jax((?:\.\w+)+)", PAGES[page])):
        module, *attributes = "infoae_jax", *name[1:].split(".")
        found = importlib.import_module(module)
        for attribute in attributes:
            module = f"{module}.{attribute}"
            found = getattr(found, attribute) if hasattr(found, attribute) else importlib.import_module(module)


@every_written_page
def test_settings(page):
    named = re.findall(r"--config\.([\w.]+\w)", PAGES[page])
    if page not in ("docs/pages/python.md", "docs/pages/demo.md"):  # where `model` is an object
        sections = "|".join({name.split(".")[0] for name in SETTINGS})
        named += re.findall(rf"[`\"]((?:{sections})\.(?!py\b)\w+)", PAGES[page])
    assert sorted(set(named) - set(SETTINGS)) == []


def shell_commands(text):
    """Commands in blocks and in the middle of sentences, as words."""
    blocks = re.findall(r"^ {4}((?:.*\\\n)*.*)$", text, re.M)
    for block in (*blocks, *re.findall(r"`((?:infoae|python|pip) [^`]+)`", text)):
        for command in block.replace("\\\n", " ").split("&&"):
            words = shlex.split(command, comments=True) if command.count("'") % 2 == 0 else []
            if words and words[0] in ("infoae", "python", "python3", "pip", "pytest", "mkdocs", "srun"):
                yield words[1:] if words[0] == "srun" else words


def known_options():
    """By command, its options."""
    commands = argparse.ArgumentParser().add_subparsers()
    for module in (demo, evaluate, export, interpolate, report, transfer):
        module.add(commands)
    known = {f"infoae {name}": set(parser._option_string_actions) for name, parser in commands.choices.items()}
    ours = [
        flag for name in (train.__name__, "infoae_jax.cli.sweep") for flag in flags.FLAGS.flags_by_module_dict()[name]
    ]
    options = {f"--{flag.name}" for flag in ours} | {f"--no{flag.name}" for flag in ours if flag.boolean}
    options |= {f"--config.{name}" for name in SETTINGS}
    known |= {
        "infoae train": options,
        "infoae sweep": options,
        "python launch.py": options,
        "python benchmarks/sweep_cost.py": options,
    }
    for path in (ROOT / "benchmarks").glob("*.py"):
        literal = set(re.findall(r"\"(--\w+)\"", path.read_text()))
        known[f"python benchmarks/{path.name}"] = known.get(f"python benchmarks/{path.name}", set()) | literal
    return known


@every_written_page
def test_commands(page):
    known = known_options()
    for words in shell_commands(PAGES[page]):
        name = " ".join(words[:2])
        if words[:3] == ["python", "-m", "infoae_jax"]:
            name = f"infoae {words[3]}"
        if words[0] in ("infoae", "python") and not words[1].startswith(("examples/", "docs/")):
            assert name in known, words
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= known.get(name, set()), words
        for word in words:
            if word.startswith("--config="):
                file, _, variant = word.removeprefix("--config=").partition(":")
                path = Path(file) if file.endswith(".py") else Path("configs") / f"{file}.py"
                assert (ROOT / path).exists(), words
                assert set(filter(None, variant.split(","))) <= set(base.VARIANTS), words


def test_commands_are_found():
    text = "Say `infoae demo\nmnist`, or\n\n    pip install -e . && python launch.py \\\n        --config=x  # now\n"
    assert list(shell_commands(text)) == [
        ["pip", "install", "-e", "."],
        ["python", "launch.py", "--config=x"],
        ["infoae", "demo", "mnist"],
    ]
    assert sum(len(list(shell_commands(text))) for text in PAGES.values()) > 60


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.S)


@every_page
def test_python_blocks_compile(page):
    for code in python_blocks(page):
        compile(code, page, "exec")


def test_the_readmes_python_makes_the_image_beside_it(tmp_path, monkeypatch, one_device):
    (code,) = python_blocks("README.md")
    assert len([line for line in code.splitlines() if line]) == 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    exec(code, {})
    made, shown = (np.asarray(Image.open(path), int) for path in ("swaps.png", FOLDER / "images" / "digit_swaps.png"))
    assert abs(made - shown).max() <= 8  # convolutions round differently on other machines


@pytest.mark.slow
def test_the_training_from_python_runs(tmp_path, monkeypatch, cache):
    code = python_blocks("docs/pages/python.md")[1]
    monkeypatch.chdir(tmp_path)
    exec(code.replace("\ninfoae_jax.fit", f"\nconfig.data.cache_dir = {str(cache)!r}\ninfoae_jax.fit"), {})
    assert (tmp_path / "runs" / "tiny" / "metrics.jsonl").exists()


def test_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_settings_page_is_up_to_date():
    named = dict(GENERATE["comments"]())
    assert set(named) == set(SETTINGS) | {name.split(".")[0] for name in SETTINGS}
    assert [name for name in SETTINGS if not named[name]] == []  # each has a comment
    assert GENERATE["settings_page"]() == PAGES["docs/pages/settings.md"], "run: python docs/generate.py"


def test_commands_page_is_up_to_date():
    """Other versions of Python break lines elsewhere."""
    made = GENERATE["commands_page"]()
    assert made.split() == PAGES["docs/pages/commands.md"].split(), "run: python docs/generate.py"
