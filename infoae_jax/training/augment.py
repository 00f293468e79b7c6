"""Random changes of images during training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from infoae_jax.images.views import NUM_DRAWS, make_views
from infoae_jax.training.stream import own_rows, stream
from infoae_jax.types import Hyper, Scalar

MAX_SWAP_SHIFT = 2  # pixels


def augment_swaps(
    images: Float[Array, "b h w c"], noise: Scalar, seed: Scalar, step: Scalar, axis: str | None
) -> Float[Array, "b h w c"]:
    """Images with normal noise (not clipped), all shifted alike (cyclically) by up to `MAX_SWAP_SHIFT` pixels.

    Args:
      noise: standard deviation; 0 leaves the images as they are, without a shift.
      seed: of the run; with the number `step` of the training step it determines noise and shift.
      axis: as for `autoencoder.train_step`.
    """
    key = stream(seed, "noise", step)
    normal = own_rows(lambda n: jax.random.normal(key, (n, *images.shape[1:]), images.dtype), len(images), axis)
    max_shift = MAX_SWAP_SHIFT * (jnp.asarray(noise) > 0)
    return shift_images(images, max_shift, stream(seed, "noise_shift", step)) + noise * normal


def mix_in_views(
    images: Float[Array, "b h w c"], share: float, hyper: Hyper, axis: str | None
) -> Float[Array, "b h w c"]:
    """Images of which this share, chosen at random, are views (`images/views.py`); `axis` as for `augment_swaps`."""
    key, (count, *_) = stream(hyper["seed"], "content_views", hyper["step"]), images.shape
    draws = own_rows(lambda n: jax.random.uniform(key, (n, NUM_DRAWS + 1), minval=-1, maxval=1), count, axis)
    is_view = draws[:, -1] < 2 * share - 1
    return jnp.where(is_view[:, None, None, None], make_views(images, draws[:, :-1]), images)


def shift_images(
    images: Float[Array, "b h w c"], max_shift: Int[Array, ""] | int, key: Key[Array, ""]
) -> Float[Array, "b h w c"]:
    """Images, all shifted alike (cyclically) by up to `max_shift` pixels in each direction."""
    rows, columns = jax.random.randint(key, (2,), -max_shift, max_shift + 1)
    return jnp.roll(images, (rows, columns), (1, 2))
