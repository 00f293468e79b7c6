"""Pictures as people have them (arrays, PIL images, files, folders) as images of one shape.

What may be handed over wherever the package asks for pictures:

* a NumPy or JAX array, uint8 in 0..255 or float in [0, 1]: `[H, W]` one grey picture, `[H, W, C]` one picture,
  `[N, H, W]` grey pictures, `[N, H, W, C]` pictures. Of three axes, the last one is channels if it is 4 or less long;
* a PIL image, or the path of a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM file, as text or `pathlib.Path`;
* the path of a folder: all its PNG and JPEG files, in the order of their names;
* a list of any of these.

Another size is resized (with a warning, and as training does it: stretched to fit), RGB and grey are converted into
each other, what is transparent is drawn on white. Only then are floats rounded to 8 bits.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from infoae_jax.errors import UserError
from infoae_jax.images.handwriting import centred
from infoae_jax.images.pixels import to_float

SUFFIXES = (".png", ".jpg", ".jpeg")  # of what is taken from a folder
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not, for instance, EPS, which runs programs
_SKETCH = 512  # pixels: a photo has more noise than its strokes have detail
_ROUNDING = 1e-4  # how far outside [0, 1] floats may lie that somebody's arithmetic brought there
Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]


def read_images(pictures: Any, image_shape: tuple[int, int, int], what: str = "pictures") -> Images:
    """Pictures in any of the forms above as `[n, *image_shape]`, uint8 in 0..255 or float32 in [0, 1]; n >= 1.

    Args:
      image_shape: height, width, and 1 (grey) or 3 (RGB) channels.
      what: they are called so in errors.

    Raises:
      UserError: for anything else, and files that are no pictures; it names which one and what it is.
    """
    height, width, channels = image_shape
    parts: list[np.ndarray] = []
    resized: list[str] = []
    for item, name in _opened(pictures, image_shape, what):
        if isinstance(item, np.ndarray) and item.shape[1:] == image_shape:
            parts.append(item)
            continue
        for image, which in _as_pil(item, name):
            array = convert(image, which, channels)
            if array.shape[:2] != (height, width):
                resized.append(f"{which} has {array.shape[1]}x{array.shape[0]}")
                array = _stretched(array, height, width)
            parts.append(array[None])
    if resized:
        count = sum(map(len, parts))
        these = f"{len(resized)} of {count} pictures" if count > 1 else "the picture"
        warnings.warn(
            f"Stretched {these} to the {width}x{height} pixels that the model knows; {resized[0]}.", stacklevel=3
        )
    if len({part.dtype for part in parts}) > 1:
        parts = [to_float(part) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_drawings(
    pictures: Any, image_shape: tuple[int, int, int], ground: float = 0.0, what: str = "pictures"
) -> UInt8[np.ndarray, "n h w c"]:
    """Drawings or scans of strokes in any of the forms above, prepared as MNIST's digits are.

    The strokes become bright on black, are cropped, fitted into a box of 20/28 of the picture with their proportions
    kept, and put with their centre of mass in its middle (LeCun et al. 1998). A model that was trained on such
    pictures knows no others.

    Args:
      image_shape, what: as in `as_images`.
      ground: brightness of the ground that the model knows; above 0.5 the strokes become dark on white instead.

    Raises:
      UserError: as `as_images`, and if nothing stands out from the paper.
    """
    height, width, channels = image_shape
    prepared = []
    for item, name in _opened(pictures, image_shape, what):
        for image, which in _as_pil(item, name):
            canvas = strokes(image, which, (height, width))
            if canvas is None:
                raise UserError(f"{which} shows no strokes: nothing in it stands out from its border.")
            prepared.append(255 - canvas if ground > 0.5 else canvas)
    return np.repeat(np.stack(prepared)[..., None], channels, axis=3)


def strokes(image: Image.Image, source: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "_h _w"] | None:
    """The strokes in a picture, bright on black, at `size`; None if there are none. See `handwriting` and `convert`."""
    if max(image.size) > _SKETCH and not image.mode.startswith(("I", "F")):  # what follows takes memory for each pixel
        with _named(source):
            if image.mode in ("1", "P", "PA") or "transparency" in image.info:  # not to be averaged as they are
                image = image.convert("RGBA")
            width, height = (max(round(side * _SKETCH / max(image.size)), 1) for side in image.size)
            image = image.resize((width, height), reducing_gap=2)
    return centred(convert(image, source, 1)[..., 0], size)


def list_folder(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, sorted by name; hidden ones and sub-folders are left out.

    Raises:
      UserError: if there is none, or the folder cannot be read.
    """
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    files = [p for p in files if not p.is_dir()]
    if not files:
        raise UserError(f"The folder {folder} has no PNG or JPEG file.")
    return files


def decode(
    encoded: bytes, source: Any, channels: int = 0, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """The picture in a file's bytes. See `convert`, which has the arguments and what is raised."""
    return convert(opened(encoded, source), source, channels, size)


def opened(encoded: bytes, source: Any) -> Image.Image:
    """A file's bytes as PIL sees them, of which nothing but the header is decoded yet; for `convert`."""
    if not encoded:
        raise UserError(f"The image {source} is empty (0 bytes). Replace or remove it.")
    with _named(source):
        return Image.open(io.BytesIO(encoded), formats=_FORMATS)


def convert(
    image: Image.Image, source: Any, channels: int = 0, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """Turned upright as its camera says, and what is transparent drawn on white.

    Args:
      source: where it comes from, for errors.
      channels: 1 grey, 3 RGB, 0 what is closer to the picture's own mode.
      size: height and width to be stretched to; None: its own.

    Raises:
      UserError: if it is broken, or has more than 8 bits a channel.
    """
    with _named(source):
        if image.mode.startswith(("I", "F")):
            raise UserError(f"The image {source} has more than 8 bits a channel, which is not supported. Convert it.")
        if image.getexif():
            image = ImageOps.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        grey = channels == 1 or (not channels and image.mode in ("1", "L"))
        mode = "L" if grey else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if size is not None:
            image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


@contextlib.contextmanager
def _named(source: Any) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files lead to many kinds
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"The image {source} cannot be decoded ({reason}). Replace or remove it.") from error


def _opened(pictures: Any, shape: tuple[int, int, int], what: str) -> Iterator[tuple[Image.Image | np.ndarray, str]]:
    """One after the other, with their names: images as PIL has them, and arrays `[n, h, w, c]`."""
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise UserError(f"{what} is an empty list, but one picture is needed at least.")
        for i, item in enumerate(pictures):
            if isinstance(item, list | tuple):
                raise UserError(f"{what}[{i}] is {_description(item)}. Of numbers make an array first.")
            yield from _opened(item, shape, f"{what}[{i}]")
    elif isinstance(pictures, str | os.PathLike):
        path = Path(pictures)
        for file in list_folder(path) if path.is_dir() else [path]:
            yield _read(file), str(file)
    elif isinstance(pictures, Image.Image):
        yield pictures, what
    elif hasattr(pictures, "__array__") and hasattr(pictures, "dtype"):
        yield _with_known_range(_with_four_axes(np.asarray(pictures), shape, what), what), what
    else:
        raise UserError(
            f"{what} is {_description(pictures)}, which is no picture. Give an array, a PIL image, the path of a file "
            f"or a folder, or a list of these."
        )


def _description(item: Any) -> str:
    text = repr(item)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(item).__name__})"


def _read(path: Path) -> Image.Image:
    try:
        encoded = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"The image {path} cannot be read ({reason}).") from error
    if not encoded:
        raise UserError(f"The image {path} is empty (0 bytes). Replace or remove it.")
    with _named(path):
        return Image.open(io.BytesIO(encoded), formats=_FORMATS)


def _as_pil(item: Image.Image | np.ndarray, name: str) -> Iterator[tuple[Image.Image, str]]:
    if isinstance(item, Image.Image):
        yield item, name
        return
    pixels = item if item.dtype == np.uint8 else np.rint(item * 255).astype(np.uint8)
    for i, image in enumerate(pixels):  # of two channels, the second one is alpha for PIL as well
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        yield image, f"{name}[{i}]" if len(pixels) > 1 else name


def _stretched(array: UInt8[np.ndarray, "h w c"], height: int, width: int) -> UInt8[np.ndarray, "_h _w c"]:
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).reshape(height, width, -1)


def _with_four_axes(array: np.ndarray, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """[n, h, w, c]. Two axes are always one grey picture, since a batch of rows of pixels is no picture."""
    found = f"{name} has the shape {list(array.shape)}"
    wanted = "Pictures are [H, W], [H, W, C], [N, H, W] or [N, H, W, C]"
    height, width, channels = shape
    if array.ndim == 2 and array.shape[1] in (height * width, height * width * channels):
        raise UserError(f"{found}: flattened pictures, it seems. Reshape them to {['N', *shape]}.".replace("'", ""))
    if array.ndim == 3 and array.shape[2] > 4 and array.shape[0] in (3, 4) and channels == 3:
        raise UserError(
            f"{found}: either one picture with its channels first, or {array.shape[0]} grey ones. Say which: move the "
            f"channels last (np.moveaxis(x, 0, -1)), or add an axis for them (x[..., None])."
        )
    if array.ndim == 2:
        array = array[None, ..., None]
    elif array.ndim == 3:
        array = array[None] if array.shape[2] <= 4 else array[..., None]
    if array.ndim != 4 or not array.size:
        raise UserError(f"{found}. {wanted}, with at least one pixel.")
    if array.shape[3] > 4:
        first = array.shape[1] <= 4
        advice = "Move the channels last: np.moveaxis(x, 1, -1)." if first else f"{wanted}, and C is 1 to 4."
        raise UserError(f"{found}, with {array.shape[3]} channels. {advice}")
    return array


def _with_known_range(images: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is, floats as float32 within [0, 1]."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":  # NumPy has no kind for JAX's bfloat16
        raise UserError(
            f"{name} is {images.dtype}, but must be uint8 (0..255) or floats (in [0, 1]). If it holds 0..255, write "
            f"x.astype(np.uint8)."
        )
    images = images.astype(np.float32)
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        count = int((~np.isfinite(images)).sum())
        raise UserError(f"{name} holds {count} value(s) that are infinite or not a number.")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        advice = "It seems to hold 0..255: divide by 255." if low >= 0 and 2 < high <= 255 else "Scale it."
        raise UserError(f"{name} holds floats from {low:.4g} to {high:.4g}, but they must lie in [0, 1]. {advice}")
    return np.clip(images, 0, 1)
