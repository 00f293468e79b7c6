"""Writes the pages that come from the code: settings.md from configs/base.py, commands.md from `--help`.

python docs/generate.py
"""

import argparse
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from configs import base, folder, mnist, rendered, svhn
from infoae_jax.cli import demo, evaluate, export, interpolate, report, transfer
from infoae_jax.config import flatten

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
CONFIGS = {"mnist": mnist, "rendered": rendered, "svhn": svhn, "folder": folder}
VARIANTS = "mnist:paper", "mnist:large", "mnist:tiny"
_SECTION = re.compile(r"config\.(\w+) = \w+ = ConfigDict\(\)(?:  # (.*))?")
_SETTING = re.compile(r"(\w+\.\w+) = .+?(?:  # (.*))?")


def settings_page() -> str:
    """Every setting with its default and its comment in configs/base.py, and what the other recipes change."""
    defaults = flatten(base.get_config().to_dict())
    text = [
        "# Settings",
        "",
        "*Made from the comments in `configs/base.py` by `python docs/generate.py`.*",
        "",
        "Set any of them on the command line: `--config.model.bottleneck=32`. "
        "[Which setting does what](tuning.md) helps you choose.",
    ]
    for name, comment in comments():
        if "." not in name:
            text += ["", f"## {name}", "", *([comment, ""] if comment else []), "| setting | default | what it is |"]
            text += ["|---|---|---|"]
        else:
            text.append(f"| `{name}` | `{defaults[name]!r}` | {comment} |")
    recipes = {name: flatten(module.get_config().to_dict()) for name, module in CONFIGS.items()}
    recipes |= {name: flatten(mnist.get_config(name.partition(":")[2]).to_dict()) for name in VARIANTS}
    text += [
        "",
        "## What each recipe sets",
        "",
        "A variant after a colon changes every configuration in the same way.",
        "",
    ]
    text += [f"| setting | {' | '.join(recipes)} |", "|---" * (len(recipes) + 1) + "|"]
    for name in filter(defaults.__contains__, dict(comments())):
        values = [repr(recipe[name]) for recipe in recipes.values()]
        if len(set(values)) > 1:
            text.append(f"| `{name}` | {' | '.join(f'`{value}`' for value in values)} |")
    return "\n".join([*text, ""])


def comments() -> Iterator[tuple[str, str]]:
    """The sections ('model') and settings ('model.bottleneck') of configs/base.py in order, with their comments."""
    above: list[str] = []
    for line in inspect.getsource(base.get_config).splitlines():
        line = line.strip()
        if line.startswith("# "):
            above.append(line.removeprefix("# "))
        elif found := _SECTION.fullmatch(line) or _SETTING.fullmatch(line):
            yield found[1], sentence(" ".join(filter(None, (*above, found[2]))))
            above = []


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text and text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def commands_page() -> str:
    """The help of every command."""
    parser = argparse.ArgumentParser(prog="infoae")
    commands = parser.add_subparsers()
    for module in (transfer, interpolate, evaluate, report, demo, export):
        module.add(commands)
    text = [
        "# Command line",
        "",
        "*Made from the commands' `--help` by `python docs/generate.py`.*",
        "",
        "`infoae COMMAND` and `python -m infoae_jax COMMAND` are the same.",
        "",
        "Give images as files, or as folders of PNG and JPEG files. An existing file is replaced only with `--force`. "
        "MNIST's digits are white on black, 20 of 28 pixels high and centred by their mass. A model trained on them "
        "knows no others, so add `--drawing` for a photo, scan or sketch of a digit, dark on bright or bright on dark.",
        "",
        "[Training and run folders](training.md#exit-codes) explains the exit codes, and [Python](python.md) shows how "
        "to do the same from a program.",
        "",
        "## infoae train, infoae sweep",
        "",
        "In a clone, `python launch.py` does the same; a sweep adds `--sweep`. Write options as `--name=value`.",
        "",
        *fenced(launch_help()),
    ]
    os.environ["COLUMNS"] = "100"
    for name, command in commands.choices.items():
        text += ["", f"## infoae {name}", "", *fenced(command.format_help())]
    return "\n".join([*text, ""])


def launch_help() -> str:
    """The help of launch.py."""
    command, environment = [sys.executable, "launch.py", "--help"], {**os.environ, "COLUMNS": "100"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def fenced(text: str) -> list[str]:
    """As the lines of a block."""
    return ["```text", *(line.rstrip() for line in text.strip().splitlines()), "```"]


def main() -> None:
    """Writes both pages."""
    (PAGES / "settings.md").write_text(settings_page())
    (PAGES / "commands.md").write_text(commands_page())


if __name__ == "__main__":
    main()
