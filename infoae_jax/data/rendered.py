"""The rendered data set: 32x32 RGB digits like house numbers, whose factors are all known.

So the true image with the style of A and the content of B exists for every pair: `render(factors_of_A, digits_of_B)`.
The fonts are those that matplotlib ships; nothing is downloaded.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import check_memory
from infoae_jax.errors import UserError
from infoae_jax.images.grid import font_folder
from infoae_jax.images.pixels import to_float, to_uint8

VERSION = 1  # of the images that a seed gives; to be raised whenever they change
SIDE = 32
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
_GLYPH_HEIGHT = 36  # of a digit in the atlas, in pixels
_CELL_SIDE = 48  # of the atlas, in pixels
_CHUNK_SIZE = 2000  # images rendered at a time, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Factors:
    """What N images are rendered from, but for the digit."""

    font: Int[np.ndarray, " n"]  # index into `FONTS`
    foreground: Float[np.ndarray, "n 3"]  # colour in [0, 1]
    background: Float[np.ndarray, "n 3"]  # colour in [0, 1], at the image's centre
    gradient: Float[np.ndarray, "n 3"]  # change of the background's colour across the image
    gradient_angle: Float[np.ndarray, " n"]  # direction of that change, in degrees
    angle: Float[np.ndarray, " n"]  # rotation in degrees, counter-clockwise
    shear: Float[np.ndarray, " n"]  # shift of x for each pixel of y
    height: Float[np.ndarray, " n"]  # of the digit, in pixels
    shift: Float[np.ndarray, "n 2"]  # of the digit's centre from the image's: x and y in pixels
    blur: Float[np.ndarray, " n"]  # standard deviation of the strokes' blur, in pixels
    noise: Float[np.ndarray, " n"]  # standard deviation of the pixels' noise, for pixels in [0, 1]
    noise_seed: Int[np.ndarray, " n"]
    left: Int[np.ndarray, " n"]  # neighbouring digit, -1 for none
    right: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.font)

    def __getitem__(self, index: slice | np.ndarray) -> "Factors":
        return Factors(**{name: value[index] for name, value in vars(self).items()})


def sample_factors(count: int, rng: np.random.Generator) -> Factors:
    """Draws the factors of `count` images at random, such that digits stand out from their background."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (count, *shape)).astype(np.float32)

    def normal(sd: float, limit: float, *shape: int) -> np.ndarray:
        return np.clip(rng.normal(0, sd, (count, *shape)), -limit, limit).astype(np.float32)

    foreground, background = uniform(0, 1, 3), uniform(0.1, 0.9, 3)
    luminance = np.array([0.299, 0.587, 0.114], np.float32)
    while (pale := np.abs((foreground - background) @ luminance) < 0.3).any():
        foreground[pale] = rng.uniform(0, 1, (pale.sum(), 3))
        background[pale] = rng.uniform(0.1, 0.9, (pale.sum(), 3))
    return Factors(
        font=rng.integers(0, len(FONTS), count).astype(np.int32),
        foreground=foreground,
        background=background,
        gradient=normal(0.1, 0.25, 3),
        gradient_angle=uniform(0, 360),
        angle=normal(7, 20),
        shear=normal(0.15, 0.35),
        height=uniform(15, 24),
        shift=uniform(-2.5, 2.5, 2),
        blur=uniform(0.3, 1.2),
        noise=uniform(0, 0.05),
        noise_seed=rng.integers(0, 2**31, count).astype(np.int32),
        left=np.where(rng.random(count) < 0.5, rng.integers(0, 10, count), -1).astype(np.int32),
        right=np.where(rng.random(count) < 0.5, rng.integers(0, 10, count), -1).astype(np.int32),
    )


def generate(
    count: int, seed: int, split: int
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, " n"], Factors]:
    """Renders `count` random images; returns them, their digits and their factors.

    `split` is 0 for training and 1 for testing; their random streams are independent.
    """
    rng = np.random.default_rng([VERSION, seed, split])
    digits = rng.integers(0, 10, count).astype(np.int32)
    factors = sample_factors(count, rng)
    return render(factors, digits), digits, factors


def render(factors: Factors, digits: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Renders each digit with its factors.

    Raises:
      UserError: if the lengths differ, or a digit is not 0..9.
    """
    n = len(factors)
    if digits.shape != (n,) or (n and not (digits.min() >= 0 and digits.max() <= 9)):
        raise UserError(f"render needs one digit from 0 to 9 for each of the {n} images; got {digits!r}.")
    if n > _CHUNK_SIZE:
        parts = [slice(start, start + _CHUNK_SIZE) for start in range(0, n, _CHUNK_SIZE)]
        return np.concatenate([render(factors[part], digits[part]) for part in parts])

    def per_image(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, None, None]

    # 1. Where does each pixel fall in the plane in which the digit stands upright and has height 1?
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    dx, dy = x - per_image(factors.shift[:, 0]), y - per_image(factors.shift[:, 1])
    turn = np.deg2rad(per_image(factors.angle))
    u, v = np.cos(turn) * dx - np.sin(turn) * dy, np.sin(turn) * dx + np.cos(turn) * dy
    u, v = (u + per_image(factors.shear) * v) / per_image(factors.height), v / per_image(factors.height)
    # 2. Which of the three digits in the row is there, and which pixel of its glyph?
    atlas, spacings = _glyphs()
    spacing = per_image(spacings[factors.font])
    place = np.clip(np.rint(u / spacing), -2, 2).astype(np.int32)
    u = u - place * spacing
    none = np.full(n, -1, np.int32)
    row = np.stack([none, factors.left, digits, factors.right, none], axis=1)
    shown = np.take_along_axis(row, place.reshape(n, SIDE * SIDE) + 2, axis=1).reshape(place.shape)
    mask = _sample(atlas, factors.font[:, None, None], np.maximum(shown, 0), u, v) * (shown >= 0)
    # 3. Blurred stroke over a background with a gradient, and noise.
    mask = _blur(mask, factors.blur)[..., None]
    direction = np.deg2rad(per_image(factors.gradient_angle))
    along = ((np.cos(direction) * x + np.sin(direction) * y) / SIDE)[..., None]
    background = factors.background[:, None, None] + along * factors.gradient[:, None, None]
    images = background + mask * (factors.foreground[:, None, None] - background)
    for i in range(n):
        noise = np.random.Generator(np.random.Philox(key=int(factors.noise_seed[i])))
        images[i] += factors.noise[i] * noise.standard_normal(images.shape[1:], np.float32)
    return to_uint8(images)


def _sample(atlas: np.ndarray, font: np.ndarray, digit: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up of the glyphs at (u, v), in digit heights from the glyph's centre."""
    column = np.clip(u * _GLYPH_HEIGHT + (_CELL_SIDE - 1) / 2, 0, _CELL_SIDE - 1.001)
    line = np.clip(v * _GLYPH_HEIGHT + (_CELL_SIDE - 1) / 2, 0, _CELL_SIDE - 1.001)
    left, top = column.astype(np.int32), line.astype(np.int32)
    right_share, bottom_share = column - left, line - top
    at = ((font * 10 + digit) * _CELL_SIDE + top) * _CELL_SIDE + left
    flat = atlas.ravel()
    upper = flat[at] * (1 - right_share) + flat[at + 1] * right_share
    lower = flat[at + _CELL_SIDE] * (1 - right_share) + flat[at + _CELL_SIDE + 1] * right_share
    return upper * (1 - bottom_share) + lower * bottom_share


def _blur(mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian blur, each image with its own standard deviation."""
    taps = np.arange(-4, 5)
    weights = np.exp(-0.5 * (taps.astype(np.float32) / sigma[:, None]) ** 2).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        neighbours = np.clip(np.arange(SIDE) + taps[:, None], 0, SIDE - 1)
        mask = sum(weights[:, t, None, None] * mask.take(neighbours[t], axis) for t in range(len(taps)))
    return mask


@cache
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """All digits of all fonts, centred, equally high: masks [fonts, 10, cell, cell] and the spacing of each font."""
    atlas = np.zeros((len(FONTS), 10, _CELL_SIDE, _CELL_SIDE), np.float32)
    spacings = np.zeros(len(FONTS), np.float32)
    for f, name in enumerate(FONTS):
        path = font_folder() / f"{name}.ttf"
        top, bottom = ImageFont.truetype(path, 200).getbbox("0")[1::2]
        font = ImageFont.truetype(path, round(200 * _GLYPH_HEIGHT / (bottom - top)))
        low, high = font.getbbox("0")[1::2]
        boxes = [font.getbbox(str(digit)) for digit in range(10)]
        for digit, (left, _, right, _) in enumerate(boxes):
            cell = Image.new("L", (_CELL_SIDE, _CELL_SIDE))
            corner = ((_CELL_SIDE - left - right) / 2, (_CELL_SIDE - low - high) / 2)
            ImageDraw.Draw(cell).text(corner, str(digit), fill=255, font=font)
            atlas[f, digit] = to_float(np.asarray(cell))
        widest = max(right - left for left, _, right, _ in boxes)
        spacings[f] = min(widest + 3, _CELL_SIDE - 2) / _GLYPH_HEIGHT
    return atlas, spacings


def rendered_source(config: DataConfig) -> Source:
    """As many images for training and for testing as `config` sets, from its seed; `UserError` if they are too many."""
    asked = f"config.data.num_train and num_test are {config.num_train} and {config.num_test}. Such images"
    check_memory(2 * (config.num_train + config.num_test) * SIDE * SIDE * 3, asked)  # once in parts, once joined
    glyphs = hashlib.sha256(_glyphs()[0].tobytes()).hexdigest()  # fonts may change
    recipe = hashlib.sha256(f"{VERSION} {glyphs} {config.seed} {config.num_train} {config.num_test}".encode())

    def decode() -> Iterator[Dataset]:
        for split, count in enumerate((config.num_train, config.num_test)):
            images, digits, factors = generate(count, config.seed, split)
            yield Dataset(images, digits, tuple("0123456789"), vars(factors))

    # Pixels make no fingerprint, as their last bits may differ between processors. ('drawing' is part of the hash.)
    return Source({"kind": "rendered", "drawing": recipe.hexdigest()}, decode, recipe.hexdigest())
