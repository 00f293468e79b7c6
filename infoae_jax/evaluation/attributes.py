"""Style that can be measured: stroke shape of grey images, colours of RGB images. No learned part.

The stroke attributes follow Morpho-MNIST (Castro et al. 2019, JMLR 20(178)): images are enlarged four times, cut at
half of their brightest value, and skeletonised. All lengths are in pixels of the original image.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8

from infoae_jax.images.pixels import border, to_float

SCALE = 4  # as in Morpho-MNIST
TAIL = 0.02  # share of the mass that width and height leave out at each end, as in Morpho-MNIST
CHUNK_PIXELS, MAX_THREADS = 250 * 32 * 32, 4  # measured by a thread at a time, which bounds the memory
MAX_COLOUR_PIXELS = 4096  # of an image, in which the two colours are looked for
Attributes = dict[str, Float[np.ndarray, " n"]]


def has_strokes(images: UInt8[np.ndarray, "n h w c"]) -> bool:
    """Whether `strokes` makes sense: grey images, bright on a dark border."""
    return images.shape[-1] == 1 and bool(np.median(border(images).mean((1, 2))) <= 25.5)  # a tenth of white


def _in_chunks(measure: Callable[[np.ndarray], Attributes]) -> Callable[[np.ndarray], Attributes]:
    @functools.wraps(measure)
    def run(images: np.ndarray) -> Attributes:
        size = max(CHUNK_PIXELS // (images.shape[1] * images.shape[2]), 1)
        with ThreadPoolExecutor(MAX_THREADS) as pool:  # most of the work is done without Python's lock
            parts = list(pool.map(measure, (images[i : i + size] for i in range(0, len(images), size))))
        return {name: np.concatenate([part[name] for part in parts], dtype=np.float64) for name in parts[0]}

    return run


@_in_chunks
def strokes(images: UInt8[np.ndarray, "n h w 1"]) -> Attributes:
    """Measures bright strokes on a dark background; NaN for images without any stroke.

    Returns:
      slant: degrees, positive to the right, from the vertical to the axis arctan(m11 / m02) of the second moments.
      thickness: twice the mean distance from the skeleton to the background.
      area, length: of the stroke and of its skeleton.
      width, height: between the 2 % and 98 % points of the mass, after a shear takes out the slant.
      intensity: mean value along the skeleton.
    """
    from scipy.ndimage import distance_transform_edt  # here, as it is slow to import
    from skimage.morphology import skeletonize

    grey = _enlarge(to_float(images[..., 0]))
    brightest = grey.max((1, 2), keepdims=True)
    mask = (grey > brightest / 2) & (brightest > 0)
    count = mask.sum((1, 2))
    # All images below one another, with a gap between them, so that one call does for all.
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    strip = padded.reshape(-1, padded.shape[2])
    lines, distance = skeletonize(strip).reshape(padded.shape), distance_transform_edt(strip).reshape(padded.shape)
    inner = lines[:, 1:-1, 1:-1]
    shear, width, height = _moments(grey, count == 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 without any stroke
        values = {
            "slant": np.rad2deg(np.arctan(shear)),
            "thickness": 2 * (distance * lines).sum((1, 2)) / lines.sum((1, 2)) / SCALE,
            "area": count / SCALE**2,
            "length": _line_length(lines) / SCALE,
            "width": width,
            "height": height,
            "intensity": (grey * inner).sum((1, 2)) / inner.sum((1, 2)),
        }
    return {name: np.where(count == 0, np.nan, value) for name, value in values.items()}


def _enlarge(images: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n h2 w2"]:
    def weights(size: int) -> np.ndarray:
        at = np.clip((np.arange(size * SCALE) + 0.5) / SCALE - 0.5, 0, size - 1)
        return np.maximum(1 - np.abs(at[:, None] - np.arange(size)), 0).astype(np.float32)

    return weights(images.shape[1]) @ images @ weights(images.shape[2]).T


def _line_length(lines: np.ndarray) -> np.ndarray:
    """Links between neighbouring skeleton pixels: 1 along an axis, the root of 2 across a corner no axis connects."""
    # Squares of four pixels; the last row and column are empty.
    here, right, below, diagonal = lines[:, :-1, :-1], lines[:, :-1, 1:], lines[:, 1:, :-1], lines[:, 1:, 1:]
    straight = (here & right).sum((1, 2)) + (here & below).sum((1, 2))
    across = ((here == diagonal) & (right == below) & (here != right)).sum((1, 2))
    return straight + np.sqrt(2) * across + 1  # a line of p pixels has p - 1 links but is p pixels long


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
    at = (left + np.arange(n)[:, None, None] * bins).ravel()
    upright = np.bincount(at, (grey * (1 - share)).ravel(), n * bins)
    upright += np.bincount(at + 1, (grey * share).ravel(), n * bins)
    return shear, _extent(upright.reshape(n, bins)), _extent(rows)


def _extent(profile: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Distance between the points with `TAIL` of the mass before and behind them, in pixels of the original image."""
    total = profile.sum(1, keepdims=True)
    cumulative = np.pad(np.cumsum(profile, 1) / np.where(total > 0, total, 1), ((0, 0), (1, 0)))
    rows = np.arange(len(profile))

    def point(level: float) -> np.ndarray:
        after = (cumulative >= level).argmax(1).clip(1)
        low, high = cumulative[rows, after - 1], cumulative[rows, after]
        return after - 1 + (level - low) / np.where(high > low, high - low, 1)

    return (point(1 - TAIL) - point(TAIL)) / SCALE


@_in_chunks
def colours(images: UInt8[np.ndarray, "n h w 3"]) -> Attributes:
    """Finds the two main colours in CIELAB: the background, which the border has more of, and the foreground.

    Returns:
      background_l, background_a, background_b, foreground_l, foreground_a, foreground_b: lightness 0..100, a (green to
        red) and b (blue to yellow) about -100..100.
      contrast: foreground lightness minus background lightness.
    """
    from skimage.color import rgb2lab  # here, as it is slow to import

    step = max(int(np.ceil(np.sqrt(images.shape[1] * images.shape[2] / MAX_COLOUR_PIXELS))), 1)
    lab = rgb2lab(images[:, ::step, ::step]).astype(np.float32)
    pixels = lab.reshape(len(lab), -1, 3)
    # Two means (Lloyd's algorithm), from the border's mean colour and the pixel that differs most from it.
    first = border(lab).mean(1)
    farthest = ((pixels - first[:, None]) ** 2).sum(2).argmax(1)
    centres = np.stack([first, pixels[np.arange(len(lab)), farthest]], 1)
    for _ in range(10):
        distances = ((pixels[:, :, None] - centres[:, None]) ** 2).sum(3)
        second = (distances[..., 1] < distances[..., 0])[..., None]
        for k, chosen in enumerate((~second, second)):
            count = chosen.sum(1)
            centres[:, k] = np.where(count > 0, (pixels * chosen).sum(1) / np.maximum(count, 1), centres[:, k])
    swap = border(second.reshape(*lab.shape[:3], 1).astype(np.float32)).mean((1, 2)) > 0.5
    centres[swap] = centres[swap][:, ::-1]
    grounds = dict(zip(("background", "foreground"), centres.swapaxes(0, 1), strict=True))
    values = {f"{name}_{c}": colour[:, i] for name, colour in grounds.items() for i, c in enumerate("lab")}
    return values | {"contrast": values["foreground_l"] - values["background_l"]}
