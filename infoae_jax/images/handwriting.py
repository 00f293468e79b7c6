"""Somebody's drawing or scan of a digit as MNIST's are: white on black, 20 of 28 pixels long, centred by its mass."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from infoae_jax.images.pixels import border

_BOX = 20 / 28  # of the shorter side
_FAINT = 0.1, 0.4  # of the way from ground to strongest ink: at least and at most so much is still paper
_CONTRAST = 24  # out of 255: less is an empty sheet


def inverted(image: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether it is dark on light, as ink on paper: the border is brighter than half."""
    return bool(np.median(border(image[..., None])) > 127)


def centred(image: UInt8[np.ndarray, "h w"], size: tuple[int, int] = (28, 28)) -> UInt8[np.ndarray, "_h _w"] | None:
    """The strokes in a picture, bright on black, at `size` (height, width); None if there are none.

    As LeCun et al. (1998) made MNIST: fitted into 20x20 pixels with the aspect kept, and the centre of mass moved to
    the centre of 28x28. MNIST's own digits come out as they are, but for a few edges.
    """
    ink = image.astype(np.float32)
    if inverted(image):
        ink = 255 - ink
    ground = float(np.median(border(ink[..., None])))
    most = float(np.quantile(ink, 0.999)) if ink.size > 10_000 else float(ink.max())
    most = most if most - ground >= _CONTRAST else float(ink.max())  # a thin line on a large sheet
    if most - ground < _CONTRAST:
        return None
    faint = float(np.clip(4 * border(ink[..., None]).std() / (most - ground), *_FAINT))  # uneven light, or noise
    ink = np.clip((ink - ground) / (most - ground), 0, 1)
    ink[ink < faint] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BOX * min(size) / max(cut.shape)
    sides = [max(round(side * scale), 1) for side in cut.shape]
    # BOX averages what falls into a pixel, which is how MNIST's greys came about.
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    fitted = np.asarray(Image.fromarray(cut).resize((sides[1], sides[0]), how))
    # Strokes thinner than a pixel have become faint ones; their brighter part is made white.
    fitted = np.clip(fitted / np.quantile(fitted[fitted > 0.2 * fitted.max()], 0.75), 0, 1)
    corner = []
    for axis in (0, 1):
        centre = float(fitted.sum(axis=1 - axis) @ np.arange(sides[axis])) / float(fitted.sum())
        corner.append(min(max(round(size[axis] / 2 - centre), 0), size[axis] - sides[axis]))
    result = np.zeros(size, np.float32)
    result[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] = fitted
    return np.rint(255 * result).astype(np.uint8)
