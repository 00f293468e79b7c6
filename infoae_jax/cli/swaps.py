"""What `infoae transfer` and `infoae interpolate` share: images read from files, and swaps written as a PNG file."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infoae_jax.cli.arguments import Commands, add_model_command, to_path
from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.images.grid import encode_png, encode_swaps, sheet
from infoae_jax.images.read import Images, read_drawings, read_images
from infoae_jax.inference.labels import as_labels
from infoae_jax.pretrained.find import find_model

if TYPE_CHECKING:
    from infoae_jax.inference.model import Model

MAX_CELLS = 10_000  # of a sheet
_EPILOG = """\
Images are PNG, JPEG, WebP, BMP, GIF, TIFF or PPM files, or folders of PNG and JPEG files. They are stretched to the
model's size, and transparent areas become white. MNIST's digits are white on black and centred: for ink on paper, or
strokes of any size anywhere in the image, add --drawing, which crops and centres them."""


def add_parser(commands: Commands, name: str, summary: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a new command, with the arguments that both commands have."""
    parser = add_model_command(commands, name, summary, description, _EPILOG)
    parser.add_argument("--content", nargs="+", required=True, metavar="CLASS", help="classes, 'all', or images")
    parser.add_argument("--out", type=to_path, required=True, metavar="FILE.png", help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    preparation = parser.add_mutually_exclusive_group()
    preparation.add_argument("--drawing", action="store_true", help="prepare photos or drawings of digits like MNIST's")
    preparation.add_argument(
        "--invert", action="store_true", help="invert images: they are negatives of what the model knows"
    )
    parser.add_argument("--swaps_only", action="store_true", help="leave out the images given and the class names")
    parser.add_argument("--scale", type=int, default=2, help="size of each pixel in the file; default: 2")
    return parser


def load_model(arguments: argparse.Namespace, sources: Sequence[Path]) -> "Model":
    """The run's model, once the arguments have been checked."""
    out: Path = arguments.out
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {str(out)!r}, but a PNG file is written: its name must end in .png.")
    if out.is_dir() or (out.exists() and not arguments.force):
        raise UserError(f"--out: {str(out)!r} exists. Choose another name, or replace the file with --force.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"--out: the folder {str(out.parent)!r} does not exist, or cannot be written to.")
    if not 1 <= arguments.scale <= 64:
        raise UserError(f"--scale is {arguments.scale}, but must be from 1 to 64.")
    for path in sources:
        if not os.path.exists(path):
            raise UserError(f"There is no file or folder {str(path)!r}.")
    find_model(arguments.model)
    # JAX takes seconds to import; mistakes are answered before.
    from infoae_jax.devices.setup import set_up
    from infoae_jax.inference.load import load

    set_up(None)
    return load(arguments.model, arguments.step)


def read_given(paths: Sequence[Path | str], model: "Model", arguments: argparse.Namespace, what: str) -> Images:
    """The images given, prepared as --drawing and --invert say."""
    if arguments.drawing:
        return read_drawings(list(paths), model.module.image_shape, model.background or 0.0, what)
    images = read_images(list(paths), model.module.image_shape, what)
    return 255 - images if arguments.invert else images


def read_contents(arguments: argparse.Namespace, model: "Model", per_content: int) -> tuple[list[str], Images | None]:
    """Class names; and the images that they were read from, if --content is images. `per_content`: images of each."""
    is_all, contents = arguments.content == ["all"], None
    given = [text if text in model.classes else os.path.expanduser(text) for text in arguments.content]
    labels = np.arange(len(model.classes)) if is_all else as_labels(given, model.classes, "--content")
    if labels is None:
        contents = read_given(given, model, arguments, "content")
        labels = predict_and_print(model, contents, "content")
    if per_content * len(labels) > MAX_CELLS:
        raise UserError(f"{per_content} x {len(labels)} images are too many for one file (at most {MAX_CELLS}).")
    return [model.classes[label] for label in labels], contents


def predict_and_print(model: "Model", images: Images, what: str) -> np.ndarray:
    """The labels that the classifier reads; the first 20 are printed."""
    labels, confidence = model.predict(images, what)
    for i, label in enumerate(labels[:20]):
        print(f"{what} {i + 1} is read as {model.classes[label]!r} ({confidence[i]:.1%} sure)")
    return labels


def write_sheet(
    arguments: argparse.Namespace, sources: np.ndarray, swaps: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Writes the file; `names` stand above the columns, unless only swaps are wanted."""
    scale = arguments.scale
    png = encode_png(sheet(swaps), scale) if arguments.swaps_only else encode_swaps(sources, swaps, names, scale)
    try:
        write_atomically(arguments.out, png)
    except OSError as error:
        raise UserError(f"--out: {str(arguments.out)!r} cannot be written ({error.strerror}).") from error
    print(arguments.out)
