"""Pictures like the paper's Figures 2 and 3: each row one style, each column one class."""

import io

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from infoae_jax.images.pixels import to_uint8

MAX_ROWS, MAX_COLUMNS = 10, 20


def one_of_each(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " r"]:
    """Index of the first image of each class that occurs, at most `MAX_ROWS`: the grid's style images."""
    return np.unique(labels, return_index=True)[1][:MAX_ROWS]


def swap_grid(
    style_images: UInt8[np.ndarray, "r h w c"],
    swaps: Float[np.ndarray, "r k h w c"] | UInt8[np.ndarray, "r k h w c"],
    gap: int = 2,
) -> UInt8[np.ndarray, "height width c"]:
    """The real style images in the first column, then `swaps[row, class]`; white lines of `gap` pixels between."""
    rows, columns, height, width, channels = swaps.shape
    cells = np.concatenate([style_images[:, None], to_uint8(swaps)], axis=1)
    first = 4 * gap  # sets the real images apart
    canvas = np.full(
        (rows * (height + gap) - gap, (columns + 1) * (width + gap) - gap + first, channels), 255, np.uint8
    )
    for i in range(rows):
        for j in range(columns + 1):
            top, left = i * (height + gap), j * (width + gap) + (first if j else 0)
            canvas[top : top + height, left : left + width] = cells[i, j]
    return canvas


def encode_png(picture: UInt8[np.ndarray, "height width c"], scale: int = 2) -> bytes:
    """The picture as the bytes of a PNG file, each pixel drawn `scale` times as large."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
