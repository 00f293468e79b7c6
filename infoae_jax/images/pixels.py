"""Pixels: conversion between uint8, floats and PIL images; their statistics; the border of an image."""

from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from infoae_jax.types import Array

_COUNTED_AT_ONCE = 10_000  # images
Pixels = TypeVar("Pixels", bound=np.ndarray | Array)


def is_float(dtype: np.dtype) -> bool:
    """Whether pixels of this type are floats. NumPy knows JAX's bfloat16 by its name only."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def to_float(images: Pixels) -> Pixels:
    """Converts uint8 pixels 0..255 to float32 in [0, 1]; floats pass unchanged.

    Raises:
      TypeError: for other integers, whose range is not known.
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255  # type: ignore[return-value]  # NumPy says float64
    if not is_float(images.dtype):
        raise TypeError(f"images are {images.dtype}, but must be uint8 (0..255) or floats (in [0, 1]).")
    return images


def to_uint8(images: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Clips floats to [0, 1] and rounds them to 0..255; uint8 passes unchanged."""
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def border(images: UInt8[np.ndarray, "*n h w c"] | Float[np.ndarray, "*n h w c"]) -> np.ndarray:
    """The outermost pixels of each image, `[*n, 2 * (h + w) - 4, c]`."""
    mask = np.ones(images.shape[-3:-1], bool)
    mask[1:-1, 1:-1] = False
    return images[..., mask, :]


def to_pil(pixels: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """One image as PIL has it: 1 channel is grey, 2 are grey and alpha, 3 RGB, 4 RGB and alpha."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def pixel_statistics(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, np.ndarray]:
    """The mean of each channel, and the standard deviation of all from theirs, of pixels in [0, 1].

    From counts, so that they are exact whatever the number of images. Where all pixels are alike, the deviation is 1.
    """
    # In portions, as counting takes eight times the memory of the images.
    portions = np.array_split(images, len(images) // _COUNTED_AT_ONCE + 1)
    channels = range(images.shape[-1])
    counts = np.sum([[np.bincount(p[..., c].ravel(), minlength=256) for c in channels] for p in portions], axis=0)
    share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    deviation = np.sqrt(max(np.mean(share @ values**2 - mean**2), 0))
    found = {"pixel_mean": mean[None, None, None], "pixel_deviation": deviation if deviation > 1e-3 else 1}
    return {name: np.array(value, np.float32) for name, value in found.items()}
