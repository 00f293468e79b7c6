"""Random changes of images during training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from infoae_jax.images.views import NUM_DRAWS, make_views, shift_images
from infoae_jax.training.stream import own_rows, stream
from infoae_jax.types import Hyper

SWAP_NOISE = 0.05  # standard deviation, for pixels in [0, 1]
MAX_SWAP_SHIFT = 2  # pixels


def augment_swaps(images: Float[Array, "b h w c"], hyper: Hyper, axis: str | None) -> Float[Array, "b h w c"]:
    """Images with normal noise (not clipped), all shifted alike (cyclically) by up to `MAX_SWAP_SHIFT` pixels.

    Args:
      hyper: 'seed' of the run and 'step', the number of the training step, which determine noise and shift.
      axis: as for `autoencoder.train_step`.
    """
    noise, shift = (stream(hyper["seed"], name, hyper["step"]) for name in ("noise", "noise_shift"))
    normal = own_rows(lambda n: jax.random.normal(noise, (n, *images.shape[1:]), images.dtype), len(images), axis)
    shifts = jax.random.randint(shift, (2,), -MAX_SWAP_SHIFT, MAX_SWAP_SHIFT + 1)
    return jnp.roll(images, shifts, (1, 2)) + SWAP_NOISE * normal


def mix_in_views(
    images: Float[Array, "b h w c"], share: float, hyper: Hyper, axis: str | None
) -> Float[Array, "b h w c"]:
    """Images of which this share, chosen at random, are views (`images/views.py`); `axis` as for `augment_swaps`."""
    key, (count, *_) = stream(hyper["seed"], "train_views", hyper["step"]), images.shape
    draws = own_rows(lambda n: jax.random.uniform(key, (n, NUM_DRAWS + 1), minval=-1, maxval=1), count, axis)
    is_view = draws[:, -1] < 2 * share - 1
    return jnp.where(is_view[:, None, None, None], make_views(images, draws[:, :-1]), images)


def shift_each(
    images: Float[Array, "b h w c"], max_shift: int, hyper: Hyper, axis: str | None
) -> Float[Array, "b h w c"]:
    """Images, each shifted by up to `max_shift` pixels in each direction; `axis` as for `augment_swaps`."""
    key = stream(hyper["seed"], "shift", hyper["step"])
    shifts = own_rows(lambda n: jax.random.randint(key, (n, 2), -max_shift, max_shift + 1), len(images), axis)
    return shift_images(images, shifts.T)
