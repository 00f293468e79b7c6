"""Decodes many image files into one array."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.errors import UserError
from infoae_jax.images.read import decode_image as decode


def decode_all(sources: Sequence[Any], config: DataConfig, read: Callable[[Any], bytes]) -> np.ndarray:
    """Decodes, converts and resizes; names the source of an image that is broken or does not fit the others."""

    def decode(source: Any) -> np.ndarray:
        try:
            encoded = read(source)
        except OSError as error:
            raise UserError(f"The image {source} cannot be read ({error.strerror}).") from error
        return decode_image(encoded, config, source)

    with ThreadPoolExecutor() as pool:
        try:
            return stack_images(pool.map(decode, sources), len(sources), lambda i: str(sources[i]))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # do not decode all the others first
            raise


def decode_image(encoded: bytes, config: DataConfig, source: Any) -> np.ndarray:
    side = config.image_size
    return decode(encoded, source, config.channels, (side, side) if side else None)


def stack_images(images: Iterator[np.ndarray], count: int, name: Callable[[int], str]) -> np.ndarray:
    stacked = None
    for i, image in enumerate(images):
        if stacked is None:
            stacked = np.empty((count, *image.shape), np.uint8)
        elif image.shape != stacked.shape[1:]:
            h, w, c = stacked.shape[1:]
            raise UserError(
                f"The images differ in size or channels: {name(0)} is {w}x{h}x{c} and {name(i)} is {image.shape[1]}x"
                f"{image.shape[0]}x{image.shape[2]}. Have them converted, for instance with "
                f"--config.data.image_size=32 --config.data.channels=3."
            )
        stacked[i] = image
    if stacked is None:
        raise UserError("The data set has no image.")
    return stacked
