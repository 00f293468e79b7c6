"""What `infoae transfer` and `infoae interpolate` share: images in files, swaps drawn into a PNG file."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.images.grid import encode_png, swap_grid
from infoae_jax.images.read import read_drawings, read_images
from infoae_jax.pretrained.find import model_help

if TYPE_CHECKING:
    from infoae_jax.inference.model import Model

_MOST_CELLS = 10_000
_MOST_LINES = 20

_EPILOG = """\
Pictures are PNG, JPEG, WebP, BMP, GIF, TIFF or PPM files, or folders of PNG and JPEG files. They are stretched to the
size that the model knows; what is transparent is drawn on white. MNIST's digits are white on black and in the middle:
for ink on paper, and for strokes of any size anywhere in the picture, add --drawing."""


def shared_arguments(description: str) -> dict[str, Any]:
    """Keywords for `add_parser` of a command that reads images and writes a sheet of swaps."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", metavar="RUN", help=model_help())
    shared.add_argument(
        "--content", nargs="+", required=True, metavar="CLASS", help="names of classes, 'all', or pictures"
    )
    shared.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture to write")
    shared.add_argument("--force", action="store_true", help="replace the file if it is there")
    look = shared.add_mutually_exclusive_group()
    look.add_argument(
        "--drawing",
        action="store_true",
        help="the pictures are drawings or scans of strokes: made bright on black, cropped and centred, as MNIST's are",
    )
    look.add_argument("--invert", action="store_true", help="the pictures are negatives of what the model knows")
    shared.add_argument(
        "--swaps_only", action="store_true", help="only what the model draws, without the pictures given"
    )
    shared.add_argument("--scale", type=int, default=2, help="side of each pixel in the file; default: 2")
    shared.add_argument("--step", type=int, help="which checkpoint; the newest by default")
    return {
        "parents": [shared],
        "description": description,
        "epilog": _EPILOG,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def load_model(arguments: argparse.Namespace, sources: list[Path]) -> "Model":
    """The run's model; what is wrong with the files is said before, as loading takes seconds."""
    out: Path = arguments.out
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {str(out)!r}, but the picture is a PNG file: its name must end in .png.")
    if out.is_dir() or (out.exists() and not arguments.force):
        raise UserError(f"--out: {str(out)!r} is already there. Choose another name, or replace it with --force.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(f"--out: the folder {str(out.parent)!r} does not exist, or nothing can be written there.")
    if not 1 <= arguments.scale <= 64:
        raise UserError(f"--scale is {arguments.scale}, but must be from 1 to 64.")
    for path in sources:
        if not path.exists():
            raise UserError(f"There is no file or folder {str(path)!r}.")
    from infoae_jax import load  # here, so that mistakes and --help are answered before JAX is imported
    from infoae_jax.devices.setup import set_up

    set_up(None)
    return load(arguments.model, arguments.step)


def read_sources(paths: list[Any], trained: "Model", arguments: argparse.Namespace, what: str) -> np.ndarray:
    if arguments.drawing:
        return read_drawings(paths, trained.module.image_shape, trained.ground or 0.0, what)
    found = read_images(paths, trained.module.image_shape, what)
    return 255 - found if arguments.invert else found


def read_contents(arguments: argparse.Namespace, trained: "Model") -> tuple[np.ndarray, np.ndarray | None]:
    """Labels, and the pictures they were read from, if --content is pictures."""
    from infoae_jax.inference.model import as_labels

    if arguments.content == ["all"]:
        return np.arange(len(trained.classes), dtype=np.int32), None
    labels = as_labels(arguments.content, trained.classes, "--content")
    if labels is not None:
        return labels, None
    contents = read_sources(arguments.content, trained, arguments, "content")
    return read_classes(trained, contents, "content"), contents


def read_classes(trained: "Model", images: np.ndarray, what: str) -> np.ndarray:
    """The classes that the classifier reads, which are printed: those of the first ones, if there are many."""
    read = trained.predict(images)
    for i, (label, confidence) in enumerate(zip(read.labels, read.confidence, strict=True)):
        if i < _MOST_LINES:
            print(f"{what} {i + 1} is read as {trained.classes[label]!r} ({confidence:.1%} sure)")
    return read.labels


def check_cells(rows: int, columns: int) -> None:
    if rows * columns > _MOST_CELLS:
        raise UserError(f"{rows} x {columns} pictures are too many for one file; at most {_MOST_CELLS} will do.")


def write_sheet(arguments: argparse.Namespace, sources: np.ndarray, swaps: np.ndarray) -> None:
    if arguments.swaps_only:
        rows, columns, height, width, channels = swaps.shape
        sheet = swaps.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    else:
        sheet = swap_grid(sources, swaps)
    try:
        write_atomically(arguments.out, encode_png(sheet, arguments.scale))
    except OSError as error:
        raise UserError(f"--out: {str(arguments.out)!r} cannot be written ({error.strerror}).") from error
    print(arguments.out)
