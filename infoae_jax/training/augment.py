"""Random changes of images during training: functions of the step, the same for every seed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

SHIFT_SEED, NOISE_SEED = 2, 3
MAX_SWAP_SHIFT = 2  # pixels


def augment_swaps(
    images: Float[Array, "b h w c"], noise: Float[Array, ""] | float, step: Int[Array, ""], axis: str | None
) -> Float[Array, "b h w c"]:
    """Images with normal noise (not clipped), all shifted alike (cyclically) by up to `MAX_SWAP_SHIFT` pixels.

    Args:
      noise: standard deviation; 0 leaves the images as they are, without a shift.
      step: number of the training step, from which noise and shift are derived.
      axis: as for `autoencoder.train_step`.
    """
    devices, device = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    noise_key, shift_key = jax.random.split(jax.random.fold_in(jax.random.key(NOISE_SEED), step))
    # Drawn for the whole batch on every device, so that it does not depend on how many share it.
    whole = jax.random.normal(noise_key, (devices * len(images), *images.shape[1:]), images.dtype)
    share = jax.lax.dynamic_slice_in_dim(whole, device * len(images), len(images))
    return shift_images(images, MAX_SWAP_SHIFT * (jnp.asarray(noise) > 0), shift_key) + noise * share


def shift_images(
    images: Float[Array, "b h w c"], max_shift: Int[Array, ""] | int, key: Key[Array, ""]
) -> Float[Array, "b h w c"]:
    """Images, all shifted alike (cyclically) by up to `max_shift` pixels in each direction."""
    rows, columns = jax.random.randint(key, (2,), -max_shift, max_shift + 1)
    return jnp.roll(images, (rows, columns), (1, 2))
