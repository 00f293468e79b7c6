"""The embedded data set: 32x32 RGB digits like house numbers, drawn with known style factors.

Because every factor is known, the true picture of 'style of image A, content of image B' exists for every pair:
`render(styles_of_A, digits_of_B)`. Fonts are those that matplotlib ships; nothing is downloaded.
"""

import dataclasses
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.errors import UserError

VERSION = 1  # raise it whenever the same seed draws other pictures
SIDE = 32
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
_GLYPH_HEIGHT = 36  # pixels of a digit in the atlas
_CELL = 48  # pixels of an atlas cell
_CHUNK = 2000  # images drawn at a time, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Factors:
    """Everything but the digit, for N images.

    font: index into `FONTS`.
    foreground, background: colours in [0, 1], at the image centre.
    gradient: change of the background colour across the image; gradient_angle: its direction in degrees.
    angle: rotation in degrees, counter-clockwise; shear: x moved per y; height: digit height in pixels.
    shift: of the digit's centre from the image centre, x and y in pixels.
    blur: standard deviation of the stroke blur in pixels; noise: of the pixel noise, in [0, 1] pixel units.
    noise_seed: draws the noise; left, right: neighbouring digits, -1 for none.
    """

    font: Int[np.ndarray, " n"]
    foreground: Float[np.ndarray, "n 3"]
    background: Float[np.ndarray, "n 3"]
    gradient: Float[np.ndarray, "n 3"]
    gradient_angle: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    shear: Float[np.ndarray, " n"]
    height: Float[np.ndarray, " n"]
    shift: Float[np.ndarray, "n 2"]
    blur: Float[np.ndarray, " n"]
    noise: Float[np.ndarray, " n"]
    noise_seed: Int[np.ndarray, " n"]
    left: Int[np.ndarray, " n"]
    right: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.font)

    def __getitem__(self, index: slice | np.ndarray) -> "Factors":
        """The styles at `index` (a slice or an array of indices)."""
        return Factors(**{name: value[index] for name, value in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def sample_factors(count: int, rng: np.random.Generator) -> Factors:
    """`count` random styles, with the digit well readable against its background."""

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
    """`count` random images, their digits and their styles. `split` (0 train, 1 test) separates the random streams."""
    rng = np.random.default_rng([VERSION, seed, split])
    digits = rng.integers(0, 10, count).astype(np.int32)
    styles = sample_factors(count, rng)
    return render(styles, digits), digits, styles


def render(styles: Factors, digits: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Draws digit `digits[i]` in style `styles[i]`, for all i.

    Raises:
      UserError: if the lengths differ or a digit is not 0..9.
    """
    digits = np.asarray(digits)
    if digits.shape != (len(styles),) or (len(digits) and not (digits.min() >= 0 and digits.max() <= 9)):
        raise UserError(f"render needs one digit from 0 to 9 for each of the {len(styles)} styles; got {digits!r}.")
    images = np.empty((len(styles), SIDE, SIDE, 3), np.uint8)
    for start in range(0, len(styles), _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part] = _render_chunk(styles[part], digits[part])
    return images


def _render_chunk(styles: Factors, digits: np.ndarray) -> np.ndarray:
    n = len(styles)

    def per_image(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, None, None]

    # 1. Where does each pixel fall in the plane in which the digit stands upright and has height 1?
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    dx, dy = x - per_image(styles.shift[:, 0]), y - per_image(styles.shift[:, 1])
    turn = np.deg2rad(per_image(styles.angle))
    u, v = np.cos(turn) * dx - np.sin(turn) * dy, np.sin(turn) * dx + np.cos(turn) * dy
    u, v = (u + per_image(styles.shear) * v) / per_image(styles.height), v / per_image(styles.height)
    # 2. Which of the three digits in the row is there, and which pixel of its glyph?
    atlas, spacings = _glyphs()
    spacing = per_image(spacings[styles.font])
    place = np.clip(np.rint(u / spacing), -2, 2).astype(np.int32)
    u = u - place * spacing
    none = np.full(n, -1, np.int32)
    row = np.stack([none, styles.left, digits, styles.right, none], axis=1)
    shown = np.take_along_axis(row, place.reshape(n, -1) + 2, axis=1).reshape(place.shape)
    mask = _sample(atlas, styles.font[:, None, None], np.maximum(shown, 0), u, v) * (shown >= 0)
    # 3. Blurred stroke over a background with a gradient, and noise.
    mask = _blur(mask, styles.blur)[..., None]
    direction = np.deg2rad(per_image(styles.gradient_angle))
    along = ((np.cos(direction) * x + np.sin(direction) * y) / SIDE)[..., None]
    background = styles.background[:, None, None] + along * styles.gradient[:, None, None]
    picture = background + mask * (styles.foreground[:, None, None] - background)
    for i in range(n):
        noise = np.random.Generator(np.random.Philox(key=int(styles.noise_seed[i])))
        picture[i] += styles.noise[i] * noise.standard_normal(picture.shape[1:], np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _sample(atlas: np.ndarray, font: np.ndarray, digit: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up of the glyphs at (u, v), in digit heights from the glyph's centre."""
    column = np.clip(u * _GLYPH_HEIGHT + (_CELL - 1) / 2, 0, _CELL - 1.001)
    line = np.clip(v * _GLYPH_HEIGHT + (_CELL - 1) / 2, 0, _CELL - 1.001)
    left, top = column.astype(np.int32), line.astype(np.int32)
    right_share, bottom_share = column - left, line - top
    at = ((font * 10 + digit) * _CELL + top) * _CELL + left
    flat = atlas.ravel()
    upper = flat[at] * (1 - right_share) + flat[at + 1] * right_share
    lower = flat[at + _CELL] * (1 - right_share) + flat[at + _CELL + 1] * right_share
    return upper * (1 - bottom_share) + lower * bottom_share


def _blur(mask: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian blur, each image with its own standard deviation (cut at 4 pixels)."""
    reach = 4
    taps = np.arange(-reach, reach + 1, dtype=np.float32)
    weights = np.exp(-0.5 * (taps / sigma[:, None]) ** 2).astype(np.float32)
    weights /= weights.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        padded = np.pad(mask, pad, mode="edge")
        mask = sum(
            weights[:, t, None, None] * np.take(padded, np.arange(t, t + SIDE), axis=axis) for t in range(len(taps))
        )
    return mask


def recipe() -> str:
    """Identifies what a drawing is made from: the version of this module and the glyphs, whose fonts may change."""
    return f"{VERSION} {hashlib.sha256(_glyphs()[0].tobytes()).hexdigest()}"


@cache
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """All digits of all fonts, centred, equally high: masks [fonts, 10, cell, cell] and the spacing of each font."""
    atlas = np.zeros((len(FONTS), 10, _CELL, _CELL), np.float32)
    spacings = np.zeros(len(FONTS), np.float32)
    for f, name in enumerate(FONTS):
        path = str(_font_folder() / f"{name}.ttf")
        top, bottom = ImageFont.truetype(path, 200).getbbox("0")[1::2]
        font = ImageFont.truetype(path, round(200 * _GLYPH_HEIGHT / (bottom - top)))
        low, high = font.getbbox("0")[1::2]
        widest = 0.0
        for digit in range(10):
            box = font.getbbox(str(digit))
            widest = max(widest, box[2] - box[0])
            cell = Image.new("L", (_CELL, _CELL))
            corner = ((_CELL - box[0] - box[2]) / 2, (_CELL - low - high) / 2)
            ImageDraw.Draw(cell).text(corner, str(digit), fill=255, font=font)
            atlas[f, digit] = np.asarray(cell, np.float32) / 255
        spacings[f] = min(widest + 3, _CELL - 2) / _GLYPH_HEIGHT
    return atlas, spacings


def _font_folder() -> Path:
    # Found without importing matplotlib, which is slow to import and not otherwise needed here.
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The rendered data set needs the fonts that matplotlib ships: pip install matplotlib")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def rendered_source(config: DataConfig, _prepare: bool) -> Source:
    def decode() -> tuple[Dataset, Dataset]:
        names = tuple(str(digit) for digit in range(10))
        splits = []
        for split, count in enumerate((config.num_train, config.num_test)):
            images, digits, styles = generate(count, config.seed, split)
            splits.append(Dataset(images, digits, names, styles.arrays()))
        return splits[0], splits[1]

    drawn_from = f"{recipe()} {config.seed} {config.num_train} {config.num_test}"
    return {"drawing": hashlib.sha256(drawn_from.encode()).hexdigest()}, decode
