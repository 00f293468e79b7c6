"""Appearance features: how much ink and how much edge is where in an image, on grids of 2x2 and 4x4 cells.

From them the alignment learns which style latents of two classes belong together. They are differences from the class's
mean: a bold 1 is like a bold 8, although an 8 has more ink.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

from infoae_jax.images.pixels import to_float

GRIDS = (2, 4)  # cells along each side
MAX_PIXELS_AT_ONCE = 4096 * 32 * 32  # bounds the memory


def num_features(channels: int) -> int:
    """Number of appearance features of an image with `channels` channels."""
    return 2 * channels * sum(grid**2 for grid in GRIDS)


def appearance_features(
    images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], num_classes: int
) -> Float[np.ndarray, "n f"]:
    """Means of pixels and of gradient magnitudes in the cells of each grid, less the mean of the image's class.

    Their mean square is 1, and each grid of each map contributes equally. The images are 0 .. 255, with sides that are
    multiples of 4; the labels 0 .. num_classes - 1.
    """
    size = max(MAX_PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]), 1)
    portions = [_cell_means(images[start : start + size]) for start in range(0, len(images), size)]
    blocks = [np.concatenate(parts) for parts in zip(*portions, strict=True)]
    members = [labels == c for c in range(num_classes)]
    for block in blocks:
        for rows in filter(np.any, members):
            block[rows] -= block[rows].mean(0)
        block /= max(np.sqrt(np.mean(block**2) * block.shape[1]), 1e-6)
    features = np.concatenate(blocks, axis=1)
    return (features * np.sqrt(features.shape[1] / len(blocks))).astype(np.float32)


def _cell_means(images: UInt8[np.ndarray, "n h w c"]) -> list[Float[np.ndarray, "n f"]]:
    pixels = to_float(images)
    across = np.diff(pixels, axis=2, append=pixels[:, :, -1:])
    down = np.diff(pixels, axis=1, append=pixels[:, -1:])
    number, height, width, channels = images.shape
    shapes = [(number, grid, height // grid, grid, width // grid, channels) for grid in GRIDS]
    maps = pixels, np.hypot(across, down)
    return [values.reshape(shape).mean((2, 4)).reshape(number, -1) for values in maps for shape in shapes]
