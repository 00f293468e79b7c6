"""Random streams of a training: each follows from the run's seed, a name and a number, whatever else is drawn."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from infoae_jax.types import Hyper, Scalar

Stream: TypeAlias = Literal["shift", "noise", "noise_shift", "targets", "views", "train_views"]
_SHUFFLE = 1  # tells the order of images from all else that NumPy draws from the seed


def stream(seed: Scalar, name: Stream, step: Scalar) -> Key[Array, ""]:
    """The key of a stream in a training step; to be used once."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), get_args(Stream).index(name)), step)


def own_rows(draw: Callable[[int], Array], count: int, axis: str | None) -> Array:
    """What this device gets of a draw for the whole batch, which thus does not depend on how many devices share it.

    Args:
      draw: returns random rows, as many as it is asked for.
      count: rows of this device.
      axis: as for `autoencoder.train_step`.
    """
    if axis is None:
        return draw(count)
    whole = draw(count * jax.lax.axis_size(axis))
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(axis) * count, count)


def swap_classes(hyper: Hyper, num_classes: int, count: int, axis: str | None) -> Int[Array, " {count}"]:
    """A random class to swap to for each image of this device in a step; arguments as for `own_rows`."""
    key = stream(hyper["seed"], "targets", hyper["step"])
    return own_rows(lambda n: jax.random.randint(key, (n,), 0, num_classes), count, axis)


def pick_views(hyper: Hyper, num_views: int, count: int, axis: str | None) -> Int[Array, " {count}"]:
    """Which of its views a step sees of each image of this device: 0 (the image itself) to `num_views`."""
    key = stream(hyper["seed"], "views", hyper["step"])
    return own_rows(lambda n: jax.random.randint(key, (n,), 0, num_views + 1), count, axis)


def shuffled(seed: int, epoch: int, count: int) -> Int[np.ndarray, " n"]:
    """The order in which an epoch, counted over all phases, visits `count` training images."""
    return np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(count).astype(np.int32)
