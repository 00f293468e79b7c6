"""Command-line arguments that several commands share."""

import argparse
from pathlib import Path
from typing import TypeAlias

from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.pretrained.find import pretrained_names

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # of `infoae`, to which commands are added
WITHIN_HELP = "sweeps: the MSE of a recommended setting may exceed the lowest one by this much; default: 10"


def add_model_command(
    commands: Commands, name: str, summary: str, description: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a new command about one model, with the arguments that say which."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=layout)
    known = ", ".join(pretrained_names())
    parser.add_argument("model", metavar="RUN", help=f"run folder, exported .npz file, or pretrained model: {known}")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    return parser


def positive_int(text: str) -> int:
    """Reads a whole number of at least 1; for `type` of an argparse argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def to_path(text: str) -> Path:
    """Reads a path; for `type` of an argparse argument."""
    try:
        return user_path(text, "the path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def path_text(text: str) -> str:
    """As `to_path`, for what takes text."""
    return str(to_path(text))


def percentage(text: str) -> float:
    """Reads a percentage of at least 0, '10' or '10%', as a share; for `type` of an argparse argument."""
    share = float(text.removesuffix("%")) / 100
    if not 0 <= share < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage of at least 0")
    return share
