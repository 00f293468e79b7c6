"""What a glance at a picture tells: how much ink is where, and how much edge, on grids of 1, 2x2 and 4x4 cells.

The alignment (`alignment.py`) uses it to know which styles of two classes belong together. Differences from the class's
mean are compared, so a bold 1 is like a bold 8, although an 8 has more ink.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8

_GRIDS = (1, 2, 4)
_PIXELS_AT_ONCE = 4096 * 32 * 32  # which bounds the memory


def num_features(channels: int) -> int:
    """Features of `styles` for images with so many channels."""
    return 2 * channels * sum(grid**2 for grid in _GRIDS)


def appearance_features(
    images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], num_classes: int
) -> Float[np.ndarray, "n f"]:
    """Means of pixels and of gradient magnitudes in the cells of each grid, as differences from the class's mean.

    Each grid of each map counts as much as any other, and the mean square of all features is 1. The sides of the images
    must be multiples of 4.
    """
    blocks = [np.concatenate(parts) for parts in zip(*map(_glance, _portions(images)), strict=True)]
    members = [labels == c for c in range(num_classes)]
    for block in blocks:
        for rows in filter(np.any, members):
            block[rows] -= block[rows].mean(0)
        block /= max(np.sqrt(np.mean(block**2) * block.shape[1]), 1e-6)
    found = np.concatenate(blocks, axis=1)
    return (found * np.sqrt(found.shape[1] / len(blocks))).astype(np.float32)


def _portions(images: np.ndarray) -> list[np.ndarray]:
    size = max(_PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]), 1)
    return [images[start : start + size] for start in range(0, len(images), size)]


def _glance(images: UInt8[np.ndarray, "n h w c"]) -> list[Float[np.ndarray, "n f"]]:
    """One array for each map and grid."""
    pixels = images.astype(np.float32) / 255
    across = np.diff(pixels, axis=2, append=pixels[:, :, -1:])
    down = np.diff(pixels, axis=1, append=pixels[:, -1:])
    number, height, width, channels = images.shape
    blocks = []
    for values in (pixels, np.hypot(across, down)):
        for grid in _GRIDS:
            cells = values.reshape(number, grid, height // grid, grid, width // grid, channels)
            blocks.append(cells.mean((2, 4)).reshape(number, -1))
    return blocks
