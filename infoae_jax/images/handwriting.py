"""Drawings and scans of digits, prepared as MNIST has them: white on black, fitted and centred by their mass."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from infoae_jax.images.pixels import border, to_uint8

_PAPER_LIMITS = 0.1, 0.4  # minimum and maximum of the threshold below which ink (0 ground, 1 strongest) counts as paper
_MIN_CONTRAST = 24  # out of 255; an empty sheet has less


def is_dark_on_light(image: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether the image looks like ink on paper: its border is brighter than half."""
    return bool(np.median(border(image[..., None])) > 127)


def centre_strokes(
    image: UInt8[np.ndarray, "h w"], size: tuple[int, int] = (28, 28)
) -> UInt8[np.ndarray, "_h _w"] | None:
    """Extracts strokes as LeCun et al. (1998) made MNIST: fitted into 20x20 of 28x28 pixels, centred by their mass.

    MNIST's own digits come out unchanged but for a few edges.

    Args:
      image: grey; light on dark or dark on light.
      size: height and width of the result.

    Returns:
      The strokes, bright on black with their proportions kept; None if there are none.
    """
    ink = (255 - image if is_dark_on_light(image) else image).astype(np.float32)
    edge = border(ink[..., None])
    ground = float(np.median(edge))
    strongest = float(ink.max())
    if strongest - ground < _MIN_CONTRAST:
        return None
    if ink.size > 10_000 and (robust := float(np.quantile(ink, 0.999))) - ground >= _MIN_CONTRAST:
        strongest = robust  # otherwise it is a thin line on a large sheet
    threshold = float(np.clip(4 * edge.std() / (strongest - ground), *_PAPER_LIMITS))  # higher in uneven light or noise
    ink = np.clip((ink - ground) / (strongest - ground), 0, 1)
    ink[ink < threshold] = 0
    drawing = Image.fromarray(ink)
    drawing = drawing.crop(drawing.getbbox())
    scale = 20 / 28 * min(size) / max(drawing.size)
    sides = [max(round(side * scale), 1) for side in (drawing.height, drawing.width)]
    # BOX averages what falls into a pixel, which is how MNIST's greys came about.
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    fitted = np.asarray(drawing.resize((sides[1], sides[0]), resampling))
    # Strokes thinner than a pixel have become faint; their brighter part is made white.
    fitted = np.clip(fitted / np.quantile(fitted[fitted > 0.2 * fitted.max()], 0.75), 0, 1)
    corner = []
    for axis in (0, 1):
        centre = float(fitted.sum(axis=1 - axis) @ np.arange(sides[axis])) / float(fitted.sum())
        corner.append(min(max(round(size[axis] / 2 - centre), 0), size[axis] - sides[axis]))
    result = np.zeros(size, np.float32)
    result[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] = fitted
    return to_uint8(result)
