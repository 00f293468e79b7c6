"""Generates a class in evenly spaced styles, from that of one image to that of another.

Examples:
  infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
  infoae interpolate mnist --from a.jpg --to b.jpg --content all --steps 5 --drawing --out ways.png    photos of digits

The file has a row for each content: the first image, the steps, the last image.
"""

import argparse

import numpy as np

from infoae_jax.cli import swaps
from infoae_jax.cli.arguments import Commands, to_path
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import to_uint8


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = swaps.add_parser(commands, "interpolate", "generate a class in styles between two", __doc__)
    parser.add_argument("--from", dest="style_a", required=True, type=to_path, metavar="FILE", help="first style image")
    parser.add_argument("--to", dest="style_b", required=True, type=to_path, metavar="FILE", help="last style image")
    parser.add_argument("--steps", type=int, default=9, help="number of images, at least 2; default: 9")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the sheet."""
    paths = [arguments.style_a, arguments.style_b]
    if arguments.steps < 2:
        raise UserError(f"--steps is {arguments.steps}, but must be at least 2.")
    model = swaps.load_model(arguments, paths)
    a, b = (swaps.read_given([path], model, arguments, "style") for path in paths)
    for option, images in (("--from", a), ("--to", b)):
        if len(images) != 1:
            raise UserError(f"{option} is a folder of {len(images)} images. Name a single one.")
    classes, _ = swaps.read_contents(arguments, model, arguments.steps)
    if model.module.couplings:
        swaps.predict_and_print(model, np.concatenate([a, b]), "style")
    images = np.stack([to_uint8(model.interpolate(a, b, name, arguments.steps)) for name in classes])
    if not arguments.swaps_only:
        images = np.concatenate([images, np.repeat(b[None], len(classes), axis=0)], axis=1)
    swaps.write_sheet(arguments, np.repeat(a, len(classes), axis=0), images)
