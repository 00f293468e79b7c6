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
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from infoae_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")  # of what is taken from a folder
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not, for instance, EPS, which runs programs
_ROUNDING = 1e-4  # how far outside [0, 1] floats may lie that somebody's arithmetic brought there

Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]


class _Part(NamedTuple):
    """What one thing handed over has become, and the size (height, width) it had if that was another one."""

    images: np.ndarray
    name: str
    size: tuple[int, int] | None


def as_images(pictures: Any, image_shape: tuple[int, int, int], what: str = "pictures") -> Images:
    """Pictures in any of the forms above as `[n, *image_shape]`, uint8 in 0..255 or float32 in [0, 1]; n >= 1.

    Args:
      image_shape: height, width, and 1 (grey) or 3 (RGB) channels.
      what: they are called so in errors.

    Raises:
      UserError: for anything else, and files that are no pictures; it names which one and what it is.
    """
    if isinstance(pictures, list | tuple):
        if not pictures:
            raise UserError(f"{what} is an empty list, but one picture is needed at least.")
        parts = [part for i, item in enumerate(pictures) for part in _parts(item, image_shape, f"{what}[{i}]")]
    else:
        parts = _parts(pictures, image_shape, what)
    resized = [part for part in parts if part.size is not None]
    if resized:
        count, (height, width) = sum(len(part.images) for part in parts), resized[0].size or (0, 0)
        which = f"{sum(len(part.images) for part in resized)} of {count} pictures" if count > 1 else "the picture"
        warnings.warn(
            f"Resized {which} to the {image_shape[1]}x{image_shape[0]} pixels that the model knows; "
            f"{resized[0].name} has {width}x{height}.",
            stacklevel=3,
        )
    if len(parts) == 1:
        return parts[0].images
    if all(part.images.dtype == np.uint8 for part in parts):
        return np.concatenate([part.images for part in parts])
    return np.concatenate([as_floats(part.images) for part in parts])


def as_floats(images: Images) -> Float[np.ndarray, "n h w c"]:
    """In [0, 1]."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


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


def _parts(item: Any, shape: tuple[int, int, int], name: str) -> list[_Part]:
    if isinstance(item, str | os.PathLike):
        path = Path(item)
        files = list_folder(path) if path.is_dir() else [path]
        return [_from_image(_read(file), shape, str(file)) for file in files]
    if isinstance(item, Image.Image):
        return [_from_image(item, shape, name)]
    if hasattr(item, "__array__") and hasattr(item, "dtype"):
        return _from_array(np.asarray(item), shape, name)
    raise UserError(
        f"{name} is {_description(item)}, which is no picture. Give an array, a PIL image, the path of a file or a "
        f"folder, or a list of these."
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


def _from_image(image: Image.Image, shape: tuple[int, int, int], name: str) -> _Part:
    array = convert(image, name, shape[2])
    height, width = array.shape[:2]
    if (height, width) == shape[:2]:
        return _Part(array[None], name, None)
    whole = Image.fromarray(array.squeeze(-1) if shape[2] == 1 else array)
    resized = np.asarray(whole.resize((shape[1], shape[0]), Image.Resampling.LANCZOS))
    return _Part(resized.reshape(1, *shape), name, (height, width))


def _from_array(array: np.ndarray, shape: tuple[int, int, int], name: str) -> list[_Part]:
    images = _with_four_axes(array, shape, name)
    images = _with_known_range(images, name)
    if images.shape[1:] == shape:
        return [_Part(images, name, None)]
    if images.dtype != np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    parts = []
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels, modes[pixels.shape[2]])
        parts.append(_from_image(image, shape, f"{name}[{i}]" if len(images) > 1 else name))
    return parts


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
