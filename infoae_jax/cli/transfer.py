"""`infoae transfer`: classes in the style of images, drawn into a PNG file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import to_uint8

if TYPE_CHECKING:
    from infoae_jax.inference.model import Model

_DESCRIPTION = """\
Draws a content in the style of each of your pictures.

  infoae transfer runs/mnist --style a.png --content 7 --out seven.png
  infoae transfer runs/mnist --style a.png b.png drawings/ --content all --out grid.png
  infoae transfer runs/mnist --style a.png --content b.png --out swap.png

A row for each style picture, which stands in the first column, and a column for each content. Where contents are
pictures, they stand in the first row. What the model's classifier reads from pictures is printed; a style picture
that it misreads gives a wrong style, and --style_class says what it is."""


def add(commands: Any) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = commands.add_parser(
        "transfer", help="draw classes in the style of your pictures", **shared_arguments(_DESCRIPTION)
    )
    parser.add_argument(
        "--style", nargs="+", required=True, type=Path, metavar="FILE", help="pictures, or folders of them"
    )
    parser.add_argument(
        "--style_class",
        nargs="+",
        metavar="CLASS",
        help="what the style pictures show, one class for each or for all; by default, the classifier reads them",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Raises UserError for all that cannot work."""
    trained = load_model(arguments, arguments.style)
    sources = read_sources(arguments.style, trained, arguments, "style")
    labels, contents = read_contents(arguments, trained)
    check_cells(len(sources), len(labels))
    style_labels = _style_labels(arguments, trained, sources)
    swaps = to_uint8(trained.grid(sources, labels, style_labels))
    if contents is not None:
        sources = np.concatenate([np.full_like(contents[:1], 255), sources])
        swaps = np.concatenate([contents[None], swaps]) if not arguments.swaps_only else swaps
    write_sheet(arguments, sources, swaps)


def _style_labels(arguments: argparse.Namespace, trained: "Model", sources: np.ndarray) -> np.ndarray | None:
    """The given classes of the style pictures; None, once it is said how they are read, if there are none."""
    from infoae_jax.inference.model import as_labels

    if arguments.style_class is None:
        if trained.module.couplings:  # else their class is of no consequence
            read_classes(trained, sources, "style")
        return None
    labels = as_labels(arguments.style_class, trained.classes, "--style_class")
    if labels is None or len(labels) not in (1, len(sources)):
        raise UserError(
            f"--style_class must be one class for each of the {len(sources)} style pictures, or one for all; "
            f"there are: {', '.join(trained.classes)}."
        )
    return labels
