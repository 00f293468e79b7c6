"""Random changes of images during training."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_SHIFT = 2  # pixels
SHIFT_SEED, _AUGMENT_SEED = 2, 3


def augment_swaps(
    pictures: Float[Array, "b h w c"], noise: Float[Array, ""] | float, step: Int[Array, ""], axis: str | None
) -> Float[Array, "b h w c"]:
    """Pictures with normal noise, not clipped, all shifted alike (cyclically); as they are where `noise` is 0.

    A function of the step, the same for every seed of the training.
    """
    devices, device = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    noise_key, shift_key = jax.random.split(jax.random.fold_in(jax.random.key(_AUGMENT_SEED), step))
    # Drawn for all devices, so that it does not depend on how many there are.
    drawn = jax.random.normal(noise_key, (devices * len(pictures), *pictures.shape[1:]), pictures.dtype)
    own = jax.lax.dynamic_slice_in_dim(drawn, device * len(pictures), len(pictures))
    return shift_images(pictures, _SHIFT * (jnp.asarray(noise) > 0), shift_key) + noise * own


def shift_images(pictures: Float[Array, "b h w c"], most: Int[Array, ""] | int, key: Any) -> Float[Array, "b h w c"]:
    """Pictures, all shifted alike (cyclically), by up to `most` pixels either way."""
    rows, columns = jax.random.randint(key, (2,), -most, most + 1)
    return jnp.roll(pictures, (rows, columns), (1, 2))
