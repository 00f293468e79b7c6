"""Decodes many image files into one array."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from infoae_jax.config import DataConfig
from infoae_jax.errors import UserError
from infoae_jax.images.read import open_image, to_array

Image = UInt8[np.ndarray, "h w c"]
Images = UInt8[np.ndarray, "n h w c"]


def decode(file: Path | bytes, source: object, config: DataConfig) -> Image:
    """Decodes an image file or its bytes, with the size and channels that `config` sets; errors name the `source`."""
    return to_array(open_image(file, source), source, config.channels, (config.image_size, config.image_size))


def decode_files(paths: Sequence[Path], config: DataConfig) -> Images:
    """Decodes image files in parallel; see `decode` and `stack`."""
    pool = ThreadPoolExecutor()
    try:
        # Each is read when it is decoded, so that a large folder is never held in memory encoded.
        images = pool.map(lambda path: decode(path, path, config), paths)
        return stack(zip(map(str, paths), images, strict=True), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, the others need not be decoded


def check_memory(needed: int, what: str) -> None:
    """Raises `UserError` if `what` needs more bytes than the machine's memory has."""
    if not hasattr(os, "sysconf"):
        return  # Windows
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"{what} need {needed / 1e9:.1f} GB of memory, but this machine has {memory / 1e9:.1f} GB. Use fewer or "
            f"smaller ones."
        )


def stack(images: Iterable[tuple[str, Image]], count: int) -> Images:
    """Collects `count` images, which come with their names, in one array.

    Raises:
      UserError: if they differ in size or channels.
    """
    stacked, first = np.empty(0, np.uint8), ""
    for i, (name, image) in enumerate(images):
        if i == 0:
            check_memory(count * image.size, f"{count:,} images of {image.shape[1]}x{image.shape[0]} pixels")
            stacked, first = np.empty((count, *image.shape), np.uint8), name
        if image.shape != stacked.shape[1:]:
            sizes = [f"{w}x{h}x{c}" for h, w, c in (stacked.shape[1:], image.shape)]
            raise UserError(
                f"The images differ in size or channels: {first} is {sizes[0]} and {name} is {sizes[1]}. Convert them, "
                f"for instance with --config.data.image_size=32 --config.data.channels=3."
            )
        stacked[i] = image
    return stacked
