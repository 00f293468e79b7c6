"""Images in any form that people have (arrays, PIL images, files, folders), as one array of the model's shape.

Wherever the package takes images, it takes

* a NumPy or JAX array, uint8 in 0..255 or float in [0, 1]: `[H, W]` is one grey image, `[H, W, C]` one image,
  `[N, H, W]` grey images, `[N, H, W, C]` images; the last of three axes is channels if its length is at most 4;
* a PIL image, or the path (text or `pathlib.Path`) of a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM file;
* the path of a folder: all its PNG and JPEG files, sorted by name;
* a list of any of these.

Images of another size are stretched, as in training, with a warning. RGB and grey are converted into each other, and
transparent areas become white. Floats are rounded to 8 bits only where one of these conversions is needed.
"""

import contextlib
import io
import os
import reprlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from infoae_jax.errors import UserError
from infoae_jax.files import read_regular, user_path
from infoae_jax.images.handwriting import centre_strokes
from infoae_jax.images.pixels import is_float, to_float, to_pil, to_uint8

_PIL_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not, for instance, EPS, which runs programs
IF_UNREADABLE = "Check its permissions, or choose another folder."
_MAX_SKETCH_SIDE = 512  # pixels: a photo has more noise than its strokes have detail
Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]


def read_images(images: object, image_shape: tuple[int, int, int], what: str = "images") -> Images:
    """Reads images in any of the forms above as `[n, *image_shape]`, uint8 in 0..255 or float32 in [0, 1]; n >= 1.

    Args:
      image_shape: height, width, and 1 (grey) or 3 (RGB) channels.
      what: what errors call the images.

    Raises:
      UserError: for any other form, and for files that are not images; it names the culprit.
    """
    height, width, channels = image_shape
    parts, stretched = [], []
    for item, name in _open_all(images, image_shape, what):
        if isinstance(item, np.ndarray) and item.shape[1:] == image_shape:
            parts.append(item)
            continue
        for image, source in _as_pil(item, name):
            array = to_array(image, source, channels)
            if array.shape[:2] != (height, width):
                stretched.append(f"{source} has {array.shape[1]}x{array.shape[0]}")
                array = to_array(to_pil(array), source, channels, (height, width))
            parts.append(array[None])
    if stretched:
        count = sum(map(len, parts))
        these = f"{len(stretched)} of {count} images" if count > 1 else "the image"
        warnings.warn(f"Stretched {these} to the model's {width}x{height} pixels; {stretched[0]}.", stacklevel=3)
    if len({part.dtype for part in parts}) > 1:
        parts = [to_float(part) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_drawings(
    drawings: object, image_shape: tuple[int, int, int], ground: float = 0.0, what: str = "images"
) -> UInt8[np.ndarray, "n h w c"]:
    """Reads drawings or scans as `read_images` does, but prepares them as MNIST's digits are (`handwriting`).

    Args:
      ground: brightness of the model's background; above 0.5 the strokes become dark on white, not white on black.

    Raises:
      UserError: as `read_images` does, and if nothing stands out from the paper.
    """
    prepared = []
    for item, name in _open_all(drawings, image_shape, what):
        for image, source in _as_pil(item, name):
            if (strokes := extract_strokes(image, source, image_shape[:2])) is None:
                raise UserError(f"{source} shows no strokes: nothing in it stands out from its border.")
            prepared.append(255 - strokes if ground > 0.5 else strokes)
    return np.repeat(np.stack(prepared)[..., None], image_shape[2], axis=3)


def extract_strokes(image: Image.Image, source: object, size: tuple[int, int]) -> UInt8[np.ndarray, "_h _w"] | None:
    """The strokes in a drawing, photo or scan of any size, bright on black; None if there are none.

    See `handwriting.centre_strokes`. Errors name the `source`; `size` is the height and width of the result.
    """
    if max(image.size) > _MAX_SKETCH_SIDE and not image.mode.startswith(("I", "F")):  # saves memory for each pixel
        with reading(f"The image {source}"):
            if image.mode in ("1", "P", "PA") or "transparency" in image.info:  # values that cannot be averaged
                image = image.convert("RGBA")
            width, height = (max(round(side * _MAX_SKETCH_SIDE / max(image.size)), 1) for side in image.size)
            image = image.resize((width, height), reducing_gap=2)
    return centre_strokes(to_array(image, source, 1)[..., 0], size)


@contextlib.contextmanager
def reading(what: str, advice: str = "Check or replace it.") -> Iterator[None]:
    """Turns any error in the block into a `UserError`, which says why `what` cannot be read and gives `advice`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files lead to many kinds
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else reason
        raise UserError(f"{what} cannot be read ({reason}). {advice}") from error


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files in a folder except hidden ones, sorted by name; it is an error if there are none."""
    with reading(f"The folder {folder}", IF_UNREADABLE):
        files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir())
    if not (files := [p for p in files if p.suffix.lower() in (".png", ".jpg", ".jpeg")]):
        advice = "Add some (its sub-folders are not searched), or choose another folder."
        raise UserError(f"The folder {folder} has no PNG or JPEG image. {advice}")
    return files


def open_image(file: Path | bytes, source: object) -> Image.Image:
    """Opens an image file or its bytes, of which PIL decodes only the header as yet; errors name the `source`."""
    with reading(f"The image {source}"):
        encoded = file if isinstance(file, bytes) else read_regular(file)
        if not encoded:
            raise ValueError("it is empty")
        return Image.open(io.BytesIO(encoded), formats=_PIL_FORMATS)


def to_array(
    image: Image.Image, source: object, channels: int = 0, size: tuple[int, int] = (0, 0)
) -> UInt8[np.ndarray, "h w c"]:
    """Converts a PIL image to pixels, turned upright as its camera says, and with white where it is transparent.

    Args:
      source: what errors call the image.
      channels: 1 for grey, 3 for RGB, 0 for whichever is closer to the image's own mode.
      size: height and width to stretch it to; zeros keep its own.

    Raises:
      UserError: if it is broken, or has more than 8 bits a channel.
    """
    with reading(f"The image {source}"):
        if image.mode.startswith(("I", "F")):
            raise ValueError("more than 8 bits a channel are not supported")
        if image.getexif():
            image = ImageOps.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image = image.convert("L" if channels == 1 or (not channels and image.mode in ("1", "L")) else "RGB")
        if all(size):
            image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(image.height, image.width, -1)


def _open_all(images: object, shape: tuple[int, int, int], what: str) -> Iterator[tuple[Image.Image | np.ndarray, str]]:
    """Yields PIL images and arrays `[n, h, w, c]`, with their names."""
    if isinstance(images, list | tuple):
        if not images:
            raise UserError(f"{what} is an empty list, but must hold at least one image.")
        for i, item in enumerate(images):
            yield from _open_all(item, shape, f"{what}[{i}]")
    elif isinstance(images, str | os.PathLike):
        path = user_path(images, what)
        for file in list_images(path) if os.path.isdir(path) else [path]:
            yield open_image(file, file), str(file)
    elif isinstance(images, Image.Image):
        yield images, what
    elif hasattr(images, "__array__") and hasattr(images, "dtype"):
        yield _check_range(_add_axes(np.asarray(images), shape, what), what), what
    else:
        raise UserError(
            f"{what} is {reprlib.repr(images)} ({type(images).__name__}), which is not an image. Pass an array, a PIL "
            f"image, the path of a file or folder, or a list of these."
        )


def _as_pil(item: Image.Image | np.ndarray, name: str) -> Iterator[tuple[Image.Image, str]]:
    if isinstance(item, Image.Image):
        yield item, name
    else:
        for i, image in enumerate(to_uint8(item)):
            yield to_pil(image), f"{name}[{i}]" if len(item) > 1 else name


def _add_axes(array: np.ndarray, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """`[n, h, w, c]`. Two axes are always one grey image, never a batch of rows of pixels."""
    height, width, channels = shape
    is_grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] > 4)
    if array.ndim == 2 and array.shape[1] in (height * width, height * width * channels):
        advice = f"Reshape flattened images to [N, {height}, {width}, {channels}]."
    elif array.ndim == 3 and is_grey and len(array) in (3, 4) and channels == 3:
        advice = f"If it is one image, use np.moveaxis(x, 0, -1); if it is {len(array)} grey ones, x[..., None]."
    elif array.ndim == 4 and array.shape[3] > 4 and array.shape[1] <= 4:
        advice = "Move the channels last: np.moveaxis(x, 1, -1)."
    else:
        batch = array[..., None] if is_grey else array
        batch = batch[None] if batch.ndim == 3 else batch
        if batch.ndim == 4 and batch.shape[3] <= 4 and batch.size and min(batch.shape[1:3]) > 1:  # not a column
            return batch
        advice = "Images are [H, W], [H, W, C], [N, H, W] or [N, H, W, C], with 1 to 4 channels and 2x2 pixels or more."
    raise UserError(f"{name} has the shape {list(array.shape)}. {advice}")


def _check_range(images: np.ndarray, name: str) -> np.ndarray:
    """uint8 as it is, floats as float32 within [0, 1]."""
    if images.dtype == np.uint8:
        return images
    if not is_float(images.dtype):
        raise UserError(f"{name} is {images.dtype}, not uint8 in 0..255 or float in [0, 1]. Use x.astype(np.uint8).")
    images = images.astype(np.float32)
    if count := int((~np.isfinite(images)).sum()):
        raise UserError(f"{name} holds {count} value(s) that are infinite or not a number.")
    low, high = float(images.min()), float(images.max())
    if low < -1e-4 or high > 1 + 1e-4:  # rounding errors are smaller
        advice = "They seem to be 0..255: divide by 255." if low >= 0 and 2 < high <= 255 else "Scale them."
        raise UserError(f"{name} holds floats from {low:.4g} to {high:.4g}, but they must lie in [0, 1]. {advice}")
    return np.clip(images, 0, 1)
