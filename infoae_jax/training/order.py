"""The order in which an epoch visits the training images.

It follows from the seed and the number of the epoch, so a resumed run needs nothing else. JAX draws the autoencoder's,
which on an accelerator never leaves the device; numpy draws that of later phases, whose batches the host puts together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Int

from infoae_jax.training.state import Hyper

T = TypeVar("T")


def autoencoder_order(step: Int[Array, ""], hyper: Hyper, num_images: int) -> Int[Array, " n"]:
    """A permutation of the images for the epoch to which `step` belongs; to be jitted."""
    key = jax.random.fold_in(jax.random.key(hyper.seed), step // hyper.steps_per_epoch)
    return jax.random.permutation(key, num_images)


def later_order(
    seed: int, epochs_before: int, epoch: int, num_images: int, num_classes: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """A permutation of the images for an epoch of a later phase, and the random class that each place is swapped to.

    `epochs_before` counts the epochs of all phases before this one, `epoch` those of this one before now.
    """
    rng = np.random.default_rng([seed, epochs_before, epoch])
    return rng.permutation(num_images), rng.integers(0, num_classes, num_images, np.int32)


def once_an_epoch(compute: Callable[..., T], steps_per_epoch: int) -> Callable[..., T]:
    """A function of the number of steps done and of the arguments of `compute`, which it calls once in an epoch."""
    latest: dict[int, T] = {}

    def get(step: int, *args: Any) -> T:
        epoch = step // steps_per_epoch
        if epoch not in latest:
            latest.clear()
            latest[epoch] = compute(*args)
        return latest[epoch]

    return get
