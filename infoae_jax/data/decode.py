"""Decodes many image files into one array."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from infoae_jax.config import DataConfig
from infoae_jax.errors import UserError
from infoae_jax.images.read import decode_image, read_bytes

Image = UInt8[np.ndarray, "h w c"]
Images = UInt8[np.ndarray, "n h w c"]


def decode_files(paths: Sequence[Path], config: DataConfig) -> Images:
    """Decodes image files in parallel.

    Args:
      paths: PNG or JPEG files.
      config: the size and channels to convert them to.

    Raises:
      UserError: if one cannot be read or decoded, or differs from the others in size; it names the file.
    """
    with ThreadPoolExecutor() as pool:
        try:
            # Read as they are decoded, so that a large folder is never held in memory encoded.
            images = pool.map(lambda path: decode_as(config, read_bytes(path), path), paths)
            return stack_images(images, len(paths), lambda i: str(paths[i]))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the others need not be decoded
            raise


def decode_as(config: DataConfig, encoded: bytes, source: object) -> Image:
    """Decodes an image file's bytes, with the size and channels that `config` sets; errors name the `source`."""
    side = config.image_size
    return decode_image(encoded, source, config.channels, (side, side) if side else None)


def stack_images(images: Iterator[Image], count: int, name: Callable[[int], str]) -> Images:
    """Collects images in one array.

    Args:
      images: decoded one after the other.
      count: their number.
      name: gives the name of an image by its number, for errors.

    Raises:
      UserError: if they differ in size, or there are none.
    """
    stacked = None
    for i, image in enumerate(images):
        if stacked is None:
            stacked = np.empty((count, *image.shape), np.uint8)
        elif image.shape != stacked.shape[1:]:
            sizes = [f"{w}x{h}x{c}" for h, w, c in (stacked.shape[1:], image.shape)]
            raise UserError(
                f"The images differ in size or channels: {name(0)} is {sizes[0]} and {name(i)} is {sizes[1]}. Convert "
                f"them, for instance with --config.data.image_size=32 --config.data.channels=3."
            )
        stacked[i] = image
    if stacked is None:
        raise UserError("The data set has no image.")
    return stacked
