"""Measurable style: stroke shape of grey images, colours of RGB images. No learned part.

The stroke attributes follow Morpho-MNIST (Castro et al. 2019, JMLR 20(178)): images are enlarged four times, cut at
half of their brightest value, and skeletonised. All lengths are in pixels of the original image.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

_SCALE = 4  # as in Morpho-MNIST
_TAIL = 0.02  # share of the mass that width and height leave out at each end, as in Morpho-MNIST
_DARK = 0.1  # a border at most this bright (share of white) is taken as a dark background
_CHUNK_PIXELS = 250 * 32 * 32  # measured at a time, which bounds the memory
_LLOYD_STEPS = 10
_COLOUR_PIXELS = 4096  # of an image, at most, that the two colours are found from
Images = UInt8[np.ndarray, "n h w c"]
Values = dict[str, Float[np.ndarray, " n"]]


def has_strokes(images: Images) -> bool:
    """Whether `strokes` makes sense: grey images, bright on a dark border."""
    if images.shape[-1] != 1:
        return False
    border = np.concatenate(
        [images[:, [0, -1]].reshape(len(images), -1), images[:, :, [0, -1]].reshape(len(images), -1)], 1
    )
    return bool(np.median(border.mean(1)) <= _DARK * 255)


def strokes(images: UInt8[np.ndarray, "n h w 1"]) -> Values:
    """Attributes of bright strokes on a dark background.

    slant: in degrees, positive to the right; from the vertical to the axis that the second moments of the image give,
    arctan(m11 / m02).
    thickness: twice the mean distance from the skeleton to the background. area: of the stroke. length: of the
    skeleton. width, height: between the 2 % and 98 % points of the mass, after the slant is taken out by a shear.
    intensity: mean value along the skeleton. Images without any stroke give NaN.
    """
    return _in_chunks(lambda part: _strokes(part[..., 0]), images)


def _in_chunks(measure: Callable[[np.ndarray], Values], images: Images) -> Values:
    size = max(_CHUNK_PIXELS // (images.shape[1] * images.shape[2]), 1)
    parts = [measure(images[i : i + size]) for i in range(0, len(images), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _strokes(images: UInt8[np.ndarray, "n h w"]) -> Values:
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    grey = _enlarged(images.astype(np.float32) / 255)
    brightest = grey.max((1, 2), keepdims=True)
    mask = (grey > brightest / 2) & (brightest > 0)
    n, height, width = mask.shape
    # One picture of all images, one below the other and apart from each other, spares a call for each.
    strip = np.pad(mask, ((0, 0), (1, 1), (1, 1))).reshape(-1, width + 2)
    skeleton = skeletonize(strip)
    distance = distance_transform_edt(strip)
    lines, strip_distance = skeleton.reshape(n, height + 2, width + 2), distance.reshape(n, height + 2, width + 2)
    count = mask.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 = NaN where there is no stroke
        thickness = 2 * (strip_distance * lines).sum((1, 2)) / lines.sum((1, 2)) / _SCALE
        middle = lines[:, 1:-1, 1:-1]
        intensity = (grey * middle).sum((1, 2)) / middle.sum((1, 2))
    empty = count == 0
    shear, box_width, box_height = _moments(grey, empty)
    area, length = count / _SCALE**2, _line_length(lines) / _SCALE
    values = {
        "slant": np.rad2deg(np.arctan(shear)),
        "thickness": thickness,
        "area": np.where(empty, np.nan, area),
        "length": np.where(empty, np.nan, length),
        "width": box_width,
        "height": box_height,
        "intensity": intensity,
    }
    return {name: value.astype(np.float64) for name, value in values.items()}


def _enlarged(images: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h2 w2"]:
    """`_SCALE` times as large, by bilinear interpolation."""

    def weights(size: int) -> np.ndarray:
        at = np.clip((np.arange(size * _SCALE) + 0.5) / _SCALE - 0.5, 0, size - 1)
        return np.maximum(1 - np.abs(at[:, None] - np.arange(size)), 0).astype(np.float32)

    return weights(images.shape[1]) @ images @ weights(images.shape[2]).T


def _line_length(lines: np.ndarray) -> np.ndarray:
    """Links between neighbouring skeleton pixels: 1 along an axis, the root of 2 across a corner no axis connects."""
    lines = np.pad(lines, ((0, 0), (1, 1), (1, 1)))
    right = lines[:, :, :-1] & lines[:, :, 1:]
    down = lines[:, :-1] & lines[:, 1:]
    falling = lines[:, :-1, :-1] & lines[:, 1:, 1:] & ~lines[:, :-1, 1:] & ~lines[:, 1:, :-1]
    rising = lines[:, :-1, 1:] & lines[:, 1:, :-1] & ~lines[:, :-1, :-1] & ~lines[:, 1:, 1:]
    straight = right.sum((1, 2)) + down.sum((1, 2))
    # A line of p pixels has p - 1 links but is p pixels long.
    return straight + np.sqrt(2) * (falling.sum((1, 2)) + rising.sum((1, 2))) + 1


def _moments(grey: np.ndarray, empty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shear (pixels to the right for each pixel up), and width and height in pixels of the original image."""
    n, height, width = grey.shape
    y, x = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
    mass = np.where(empty, 1, grey.sum((1, 2), dtype=np.float64))
    rows, columns = grey.sum(2, dtype=np.float64), grey.sum(1, dtype=np.float64)
    mean_y, mean_x = rows @ y / mass, columns @ x / mass
    m02 = np.maximum(rows @ y**2 / mass - mean_y**2, 1e-9)
    m11 = np.einsum("nyx,y,x->n", grey, y, x, optimize=True) / mass - mean_y * mean_x
    shear = -m11 / m02
    # Mass along the rows once the shear is taken out, in bins of one (enlarged) pixel.
    place = x[None, None] + shear[:, None, None] * (y[None, :, None] - mean_y[:, None, None]) + height
    bins = width + 2 * height
    left = np.floor(place).astype(np.int64).clip(0, bins - 2)
    share = place - left
    at = left + np.arange(n)[:, None, None] * bins
    upright = np.bincount(at.ravel(), (grey * (1 - share)).ravel(), n * bins)
    upright += np.bincount(at.ravel() + 1, (grey * share).ravel(), n * bins)
    values = [shear, _extent(upright.reshape(n, bins)), _extent(rows)]
    return tuple(np.where(empty, np.nan, value) for value in values)  # type: ignore[return-value]


def _extent(profile: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Distance between the points with `_TAIL` of the mass before and behind them, in pixels of the original image."""
    total = profile.sum(1, keepdims=True)
    cumulative = np.pad(np.cumsum(profile, 1) / np.where(total > 0, total, 1), ((0, 0), (1, 0)))

    def point(level: float) -> np.ndarray:
        after = (cumulative >= level).argmax(1).clip(1)
        rows = np.arange(len(profile))
        low, high = cumulative[rows, after - 1], cumulative[rows, after]
        return after - 1 + (level - low) / np.where(high > low, high - low, 1)

    return (point(1 - _TAIL) - point(_TAIL)) / _SCALE


def colours(images: UInt8[np.ndarray, "n h w 3"]) -> Values:
    """The two main colours in CIELAB, of the background (the one that the border has more of) and of the foreground.

    background_l, _a, _b; foreground_l, _a, _b: lightness 0..100, a (green to red) and b (blue to yellow) about
    -100..100. contrast: foreground lightness minus background lightness.
    """
    return _in_chunks(_colours, images)


def _colours(images: np.ndarray) -> Values:
    from skimage.color import rgb2lab

    step = max(int(np.ceil(np.sqrt(images.shape[1] * images.shape[2] / _COLOUR_PIXELS))), 1)
    lab = rgb2lab(images[:, ::step, ::step]).astype(np.float32)
    n, height, width, _ = lab.shape
    at_border = np.zeros((height, width), bool)
    at_border[[0, -1]] = at_border[:, [0, -1]] = True
    pixels, border = lab.reshape(n, -1, 3), at_border.ravel()
    # Two means (Lloyd's algorithm), from the border's mean colour and the pixel that differs most from it.
    first = pixels[:, border].mean(1)
    farthest = ((pixels - first[:, None]) ** 2).sum(2).argmax(1)
    centres = np.stack([first, pixels[np.arange(n), farthest]], 1)
    for _ in range(_LLOYD_STEPS):
        distances = ((pixels[:, :, None] - centres[:, None]) ** 2).sum(3)
        second = (distances[..., 1] < distances[..., 0])[..., None]
        for k, chosen in enumerate((~second, second)):
            count = chosen.sum(1)
            centres[:, k] = np.where(count > 0, (pixels * chosen).sum(1) / np.maximum(count, 1), centres[:, k])
    swap = second[:, border, 0].mean(1) > 0.5
    centres[swap] = centres[swap][:, ::-1]
    background, foreground = centres[:, 0], centres[:, 1]
    values = {f"background_{c}": background[:, i] for i, c in enumerate("lab")}
    values |= {f"foreground_{c}": foreground[:, i] for i, c in enumerate("lab")}
    values["contrast"] = foreground[:, 0] - background[:, 0]
    return {name: value.astype(np.float64) for name, value in values.items()}
