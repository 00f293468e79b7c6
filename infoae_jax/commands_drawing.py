"""`infoae transfer` and `infoae interpolate`: swaps of pictures in files, drawn into a PNG file."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infoae_jax import boxed, pictures, runlog
from infoae_jax.errors import UserError
from infoae_jax.grid import png, swap_grid, to_pixels

if TYPE_CHECKING:
    from infoae_jax.transfer import Trained

_MOST_CELLS = 10_000
_MOST_LINES = 20

_TRANSFER = """\
Draws a content in the style of each of your pictures.

  infoae transfer runs/mnist --style a.png --content 7 --out seven.png
  infoae transfer runs/mnist --style a.png b.png drawings/ --content all --out grid.png
  infoae transfer runs/mnist --style a.png --content b.png --out swap.png

A row for each style picture, which stands in the first column, and a column for each content. Where contents are
pictures, they stand in the first row. What the model's classifier reads from pictures is printed; a style picture
that it misreads gives a wrong style, and --style_class says what it is."""

_INTERPOLATE = """\
Draws a content in styles on the way from that of one picture to that of another.

  infoae interpolate runs/mnist --from a.png --to b.png --content 7 --steps 9 --out way.png

A row for each content: the one picture, the steps, the other picture."""

_PICTURES = """\
Pictures are PNG, JPEG, WebP, BMP, GIF, TIFF or PPM files, or folders of PNG and JPEG files. They are stretched to the
size that the model knows; what is transparent is drawn on white. MNIST's digits are white on black and in the middle:
for ink on paper, and for strokes of any size anywhere in the picture, add --drawing."""


def add(commands: Any) -> None:
    """Adds both to the subparsers of `infoae`."""
    form = argparse.RawDescriptionHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", metavar="RUN", help=boxed.what())
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
    parents: dict[str, Any] = {"parents": [shared], "formatter_class": form, "epilog": _PICTURES}
    command = commands.add_parser(
        "transfer", help="draw classes in the style of your pictures", description=_TRANSFER, **parents
    )
    command.add_argument(
        "--style", nargs="+", required=True, type=Path, metavar="FILE", help="pictures, or folders of them"
    )
    command.add_argument(
        "--style_class",
        nargs="+",
        metavar="CLASS",
        help="what the style pictures show, one class for each or for all; by default, the classifier reads them",
    )
    command.set_defaults(run=transfer)
    command = commands.add_parser(
        "interpolate", help="draw the way from one style to another", description=_INTERPOLATE, **parents
    )
    command.add_argument(
        "--from", dest="style_a", required=True, type=Path, metavar="FILE", help="picture to start with"
    )
    command.add_argument("--to", dest="style_b", required=True, type=Path, metavar="FILE", help="picture to end with")
    command.add_argument("--steps", type=int, default=9, help="how many pictures, 2 or more; default: 9")
    command.set_defaults(run=interpolate)


def transfer(arguments: argparse.Namespace) -> None:
    """Raises UserError for all that cannot work."""
    trained = _load(arguments, arguments.style)
    sources = _open(arguments.style, trained, arguments, "style")
    labels, contents = _contents(arguments, trained)
    _check_cells(len(sources), len(labels))
    style_labels = _style_labels(arguments, trained, sources)
    swaps = to_pixels(trained.grid(sources, labels, style_labels))
    if contents is not None:
        sources = np.concatenate([np.full_like(contents[:1], 255), sources])
        swaps = np.concatenate([contents[None], swaps]) if not arguments.swaps_only else swaps
    _write(arguments, sources, swaps)


def interpolate(arguments: argparse.Namespace) -> None:
    """Raises UserError for all that cannot work."""
    trained = _load(arguments, [arguments.style_a, arguments.style_b])
    a, b = (_open([path], trained, arguments, "style") for path in (arguments.style_a, arguments.style_b))
    labels, _ = _contents(arguments, trained)
    _check_cells(len(labels), arguments.steps)
    if trained.model.couplings:
        _read(trained, np.concatenate([a, b]), "style")
    steps = [to_pixels(trained.interpolate(a, b, label, arguments.steps)) for label in labels.tolist()]
    swaps = np.stack(steps)
    if not arguments.swaps_only:
        swaps = np.concatenate([swaps, np.repeat(b[None], len(labels), axis=0)], axis=1)
    _write(arguments, np.repeat(a, len(labels), axis=0), swaps)


def _load(arguments: argparse.Namespace, sources: list[Path]) -> "Trained":
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
    from infoae_jax.process import set_up

    set_up(None)
    return load(arguments.model, arguments.step)


def _open(paths: list[Any], trained: "Trained", arguments: argparse.Namespace, what: str) -> np.ndarray:
    if arguments.drawing:
        return pictures.drawings(paths, trained.model.image_shape, trained.ground or 0.0, what)
    found = pictures.as_images(paths, trained.model.image_shape, what)
    return 255 - found if arguments.invert else found


def _contents(arguments: argparse.Namespace, trained: "Trained") -> tuple[np.ndarray, np.ndarray | None]:
    """Labels, and the pictures they were read from, if --content is pictures."""
    from infoae_jax.transfer import as_labels

    if arguments.content == ["all"]:
        return np.arange(len(trained.classes), dtype=np.int32), None
    labels = as_labels(arguments.content, trained.classes, "--content")
    if labels is not None:
        return labels, None
    contents = _open(arguments.content, trained, arguments, "content")
    return _read(trained, contents, "content"), contents


def _style_labels(arguments: argparse.Namespace, trained: "Trained", sources: np.ndarray) -> np.ndarray | None:
    """The given classes of the style pictures; None, once it is said how they are read, if there are none."""
    from infoae_jax.transfer import as_labels

    if arguments.style_class is None:
        if trained.model.couplings:  # else their class is of no consequence
            _read(trained, sources, "style")
        return None
    labels = as_labels(arguments.style_class, trained.classes, "--style_class")
    if labels is None or len(labels) not in (1, len(sources)):
        raise UserError(
            f"--style_class must be one class for each of the {len(sources)} style pictures, or one for all; "
            f"there are: {', '.join(trained.classes)}."
        )
    return labels


def _read(trained: "Trained", images: np.ndarray, what: str) -> np.ndarray:
    """The classes that the classifier reads, which are printed: those of the first ones, if there are many."""
    read = trained.read(images)
    for i, (label, confidence) in enumerate(zip(read.labels, read.confidence, strict=True)):
        if i < _MOST_LINES:
            print(f"{what} {i + 1} is read as {trained.classes[label]!r} ({confidence:.1%} sure)")
    return read.labels


def _check_cells(rows: int, columns: int) -> None:
    if rows * columns > _MOST_CELLS:
        raise UserError(f"{rows} x {columns} pictures are too many for one file; at most {_MOST_CELLS} will do.")


def _write(arguments: argparse.Namespace, sources: np.ndarray, swaps: np.ndarray) -> None:
    if arguments.swaps_only:
        rows, columns, height, width, channels = swaps.shape
        sheet = swaps.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    else:
        sheet = swap_grid(sources, swaps)
    try:
        runlog.write_atomically(arguments.out, png(sheet, arguments.scale))
    except OSError as error:
        raise UserError(f"--out: {str(arguments.out)!r} cannot be written ({error.strerror}).") from error
    print(arguments.out)
