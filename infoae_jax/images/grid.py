"""Sheets of images, such as the paper's Figures 2 and 3: each row has one style, each column one class."""

import io
import itertools
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from infoae_jax.images.pixels import to_pil, to_uint8

MAX_ROWS, MAX_COLUMNS = 10, 20
_GAP, _APART = 2, 8  # pixels of white between the cells of a grid of swaps, and besides after its first column
_TEXT, _HEADER = 9, 13  # height of a name above a column, and of the space for it, in pixels of the model


def one_of_each(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " r"]:
    """Indices of the grid's style images: the first image of each class that occurs, at most `MAX_ROWS`."""
    return np.unique(labels, return_index=True)[1][:MAX_ROWS]


def arrange(images: UInt8[np.ndarray, "n h w c"], columns: int) -> UInt8[np.ndarray, "rows columns h w c"]:
    """Cells of a sheet: the images row by row, at most `columns` to a row, black cells at the end of the last row."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cells = np.pad(images, [(0, rows * columns - len(images)), (0, 0), (0, 0), (0, 0)])
    return cells.reshape(rows, columns, *images.shape[1:])


def sheet(cells: UInt8[np.ndarray, "rows columns h w c"], gap: int = 0) -> UInt8[np.ndarray, "height width c"]:
    """One image of all cells, with `gap` pixels of white between neighbours."""
    rows, columns, height, width, channels = cells.shape
    cells = np.pad(cells, [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)], constant_values=255)
    canvas = cells.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), columns * (width + gap), channels)
    return canvas[: len(canvas) - gap, : canvas.shape[1] - gap]


def swap_grid(
    style_images: UInt8[np.ndarray, "r h w c"], swaps: Float[np.ndarray, "r k h w c"] | UInt8[np.ndarray, "r k h w c"]
) -> UInt8[np.ndarray, "height width c"]:
    """A sheet with the real style images in the first column, set apart, then `swaps[row, class]`."""
    canvas = sheet(np.concatenate([style_images[:, None], to_uint8(swaps)], axis=1), _GAP)
    return np.insert(canvas, [style_images.shape[2]] * _APART, 255, axis=1)


def encode_swaps(
    style_images: UInt8[np.ndarray, "r h w c"],
    swaps: Float[np.ndarray, "r k h w c"] | UInt8[np.ndarray, "r k h w c"],
    names: Sequence[str],
    scale: int = 2,
) -> bytes:
    """The grid of swaps as the bytes of a PNG file (see `encode_png`), with a name above each column where it fits."""
    column, font = (
        scale * (style_images.shape[2] + _GAP),
        ImageFont.truetype(font_folder() / "DejaVuSans.ttf", scale * _TEXT),
    )
    texts = [_cut(name, font, column - scale * _GAP) for name in names]
    grid = _enlarge(swap_grid(style_images, swaps), scale)
    if not any(texts):
        return _to_png(to_pil(grid))
    image = to_pil(np.pad(grid, [(scale * _HEADER, 0), (0, 0), (0, 0)], constant_values=255))
    draw = ImageDraw.Draw(image)
    for number, text in enumerate(texts, 1):
        middle = number * column + scale * _APART + (column - scale * _GAP) / 2
        draw.text((middle, scale * (_HEADER - 3)), text, fill=0, font=font, anchor="ms")
    return _to_png(image)


def encode_png(image: UInt8[np.ndarray, "height width c"], scale: int = 2) -> bytes:
    """The image as the bytes of a PNG file, each pixel enlarged to a square with sides of `scale` pixels."""
    return _to_png(to_pil(_enlarge(image, scale)))


def font_folder() -> Path:
    """Where the fonts that matplotlib ships are; this does not import it, which is slow."""
    return Path(str(distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf")))


def _cut(name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """As much of a name as fits into `width`; nothing if that is not even a letter, or the font lacks one."""
    whole = " ".join(name.split())  # folders may have any name, of several lines even
    lacking = bytes(font.getmask("\uffff"))
    if any(bytes(font.getmask(letter)) == lacking for letter in whole):
        return ""
    shorter = (whole[:end].rstrip() + "…" for end in range(len(whole) - 1, 0, -1))
    return next((text for text in itertools.chain([whole], shorter) if font.getlength(text) <= width), "")


def _enlarge(image: UInt8[np.ndarray, "height width c"], scale: int) -> UInt8[np.ndarray, "h w c"]:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
