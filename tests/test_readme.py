"""README.md: what it names exists."""

import importlib
import re
from pathlib import Path

from configs import base
from infoae_jax.config import flatten

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS = flatten(base.get_config().to_dict())


def anchors():
    titles = re.findall(r"^#+ (.+)$", README, re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def missing_files():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    paths = set(re.findall(r"\b(?:infoae_jax|configs|benchmarks)/[\w./]*\w", README))
    # The map of the rooms names files relative to the room that a line begins with.
    for line in README.split("## Reading the code")[1].split("\n* "):
        if room := re.match(r"\[(\w+)/\]\(infoae_jax/\1\)", line):
            paths |= {f"infoae_jax/{room[1]}/{name}" for name in re.findall(r"`(\w+\.py)`", line)}
    assert len(links) > 10
    assert len(paths) > 40
    return sorted(path for path in links | paths if not (ROOT / path).exists())


def test_files_and_links():
    assert missing_files() == []
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= anchors()


def test_python_names():
    names = set(re.findall(r"\binfoae_jax((?:\.\w+)+)", README)) - {".npz"}
    assert len(names) > 4
    for name in names:
        module, *attributes = "infoae_jax", *name[1:].split(".")
        found = importlib.import_module(module)
        for attribute in attributes:
            module = f"{module}.{attribute}"
            found = getattr(found, attribute) if hasattr(found, attribute) else importlib.import_module(module)


def test_settings():
    sections = "|".join({name.split(".")[0] for name in SETTINGS})
    text = "".join(
        README.split(f"\n## {title}\n")[1].split("\n## ")[0] for title in ("Settings", "Evaluation", "Sweeps")
    )
    text += README.split("**Choosing")[1].split("\n## ")[0]
    flags = re.findall(r"--config\.([\w.]+)", README)
    quoted = re.findall(rf"[`\"]((?:{sections})\.\w+)", text)
    assert len(set(flags)) > 10
    assert len(set(quoted)) > 15
    assert sorted(set(flags + quoted) - set(SETTINGS)) == []
