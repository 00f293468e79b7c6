"""Generates classes in the style of each of your images.

Examples:
  infoae transfer runs/mnist --style a.png --content 7 --out seven.png
  infoae transfer runs/mnist --style a.png b.png folder/ --content all --out grid.png
  infoae transfer runs/mnist --style a.png --content b.png --out swap.png      with the class of b.png
  infoae transfer mnist --style photo.jpg --content all --drawing --out mine.png

The file has a row for each style image, shown in the first column, and a column for each content. Contents that are
images are shown in the first row. The command prints the classes that the model's classifier reads from contents and,
if the model has an alignment, from style images. If it misreads a style image, the style is wrong too: give the right
class with --style_class.
"""

import argparse

import numpy as np

from infoae_jax.cli import swaps
from infoae_jax.cli.arguments import Commands, to_path
from infoae_jax.images.pixels import to_uint8
from infoae_jax.inference.labels import labels_for


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = swaps.add_parser(commands, "transfer", "generate classes in the style of your images", __doc__)
    parser.add_argument("--style", nargs="+", required=True, type=to_path, metavar="FILE", help="images or folders")
    parser.add_argument("--style_class", nargs="+", metavar="CLASS", help="class of each style image, or one for all")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the sheet."""
    model = swaps.load_model(arguments, arguments.style)
    sources = swaps.read_given(arguments.style, model, arguments, "style")
    classes, contents = swaps.read_contents(arguments, model, len(sources))
    if arguments.style_class is not None:  # checked here, as errors name the option
        labels_for(len(sources), arguments.style_class, model.classes, "--style_class", "style images")
    elif model.module.couplings:  # otherwise the class does not affect the style
        swaps.predict_and_print(model, sources, "style")
    images = to_uint8(model.grid(sources, classes, arguments.style_class))
    if contents is not None and not arguments.swaps_only:
        sources = np.concatenate([np.full_like(contents[:1], 255), sources])
        images = np.concatenate([contents[None], images])
    swaps.write_sheet(arguments, sources, images, classes)
