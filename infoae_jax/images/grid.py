"""Sheets of images, such as the paper's Figures 2 and 3: each row has one style, each column one class."""

import io

import numpy as np
from jaxtyping import Float, Int, UInt8

from infoae_jax.images.pixels import to_pil, to_uint8

MAX_ROWS, MAX_COLUMNS = 10, 20


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
    canvas = sheet(np.concatenate([style_images[:, None], to_uint8(swaps)], axis=1), gap=2)
    return np.insert(canvas, [style_images.shape[2]] * 8, 255, axis=1)


def encode_png(image: UInt8[np.ndarray, "height width c"], scale: int = 2) -> bytes:
    """The image as the bytes of a PNG file, each pixel enlarged to a square with sides of `scale` pixels."""
    buffer = io.BytesIO()
    to_pil(image.repeat(scale, axis=0).repeat(scale, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
