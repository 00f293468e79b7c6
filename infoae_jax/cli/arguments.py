"""Command-line arguments that several commands share."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # of `infoae`, to which commands are added
WITHIN_HELP = "sweeps: by how much the MSE of a recommended setting may exceed the lowest one; default: 10"


def positive_int(text: str) -> int:
    """Reads a whole number of at least 1; for `type` of an argparse argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def percentage(text: str) -> float:
    """Reads a percentage of at least 0, '10' or '10%', as a share; for `type` of an argparse argument."""
    share = float(text.removesuffix("%")) / 100
    if not 0 <= share < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage of at least 0")
    return share
