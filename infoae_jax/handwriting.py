"""Somebody's drawing or scan of a digit as MNIST's are: white on black, 20 pixels long, its mass in the centre."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_SIDE, _BOX = 28, 20
_FAINT = 0.1, 0.4  # of the way from ground to strongest ink: at least and at most so much is still paper
_CONTRAST = 24  # out of 255: less is an empty sheet


def inverted(image: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether it is dark on light, as ink on paper: the border is brighter than half."""
    return bool(np.median(_border(image)) > 127)


def centred(image: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28"] | None:
    """The digit in a picture of any size, dark on light or light on dark; None if there is none.

    As LeCun et al. made MNIST: fitted into 20x20 pixels with its aspect kept, and its centre of mass moved to the
    centre of 28x28.
    """
    ink = image.astype(np.float32)
    if inverted(image):
        ink = 255 - ink
    ground = float(np.median(_border(ink)))
    most = float(np.quantile(ink, 0.999)) if ink.size > 10_000 else float(ink.max())
    most = most if most - ground >= _CONTRAST else float(ink.max())  # a thin line on a large sheet
    if most - ground < _CONTRAST:
        return None
    faint = float(np.clip(4 * _border(ink).std() / (most - ground), *_FAINT))  # uneven light, or noise
    ink = np.clip((ink - ground) / (most - ground), 0, 1)
    ink[ink < faint] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BOX / max(cut.shape)
    height, width = (max(round(side * scale), 1) for side in cut.shape)
    # BOX averages what falls into a pixel, which is how MNIST's greys came about.
    fitted = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BOX if scale < 1 else None))
    total = fitted.sum()
    result = np.zeros((_SIDE, _SIDE), np.float32)
    corner = []
    for side, axis in ((height, 1), (width, 0)):
        centre = float((fitted.sum(axis=axis) * np.arange(side)).sum() / total)
        corner.append(min(max(round(_SIDE / 2 - centre), 0), _SIDE - side))
    top, left = corner
    result[top : top + height, left : left + width] = fitted
    return np.rint(255 * np.clip(result, 0, 1)).astype(np.uint8)


def _border(image: np.ndarray) -> np.ndarray:
    """The outermost pixels, as a list."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
