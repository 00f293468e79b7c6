"""`infoae interpolate`: a class in styles between those of two images, drawn into a PNG file."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from infoae_jax.cli.swaps import (
    check_cells,
    load_model,
    read_classes,
    read_contents,
    read_sources,
    shared_arguments,
    write_sheet,
)
from infoae_jax.images.pixels import to_uint8

_DESCRIPTION = """\
Draws a content in styles on the way from that of one picture to that of another.

  infoae interpolate runs/mnist --from a.png --to b.png --content 7 --steps 9 --out way.png

A row for each content: the one picture, the steps, the other picture."""


def add(commands: Any) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = commands.add_parser(
        "interpolate", help="draw the way from one style to another", **shared_arguments(_DESCRIPTION)
    )
    parser.add_argument(
        "--from", dest="style_a", required=True, type=Path, metavar="FILE", help="picture to start with"
    )
    parser.add_argument("--to", dest="style_b", required=True, type=Path, metavar="FILE", help="picture to end with")
    parser.add_argument("--steps", type=int, default=9, help="how many pictures, 2 or more; default: 9")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Raises UserError for all that cannot work."""
    trained = load_model(arguments, [arguments.style_a, arguments.style_b])
    a, b = (read_sources([path], trained, arguments, "style") for path in (arguments.style_a, arguments.style_b))
    labels, _ = read_contents(arguments, trained)
    check_cells(len(labels), arguments.steps)
    if trained.module.couplings:
        read_classes(trained, np.concatenate([a, b]), "style")
    steps = [to_uint8(trained.interpolate(a, b, label, arguments.steps)) for label in labels.tolist()]
    swaps = np.stack(steps)
    if not arguments.swaps_only:
        swaps = np.concatenate([swaps, np.repeat(b[None], len(labels), axis=0)], axis=1)
    write_sheet(arguments, np.repeat(a, len(labels), axis=0), swaps)
