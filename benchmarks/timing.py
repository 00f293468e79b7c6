"""What the parts of `speed.py` share: clocks, devices and random images."""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from infoae_jax.config import Config
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.schedule import init_state, schedule
from infoae_jax.training.stepper import Layout, Stepper
from infoae_jax.types import Tree

SHAPES = {"MNIST": (28, 1), "SVHN": (32, 3)}  # side and channels


def median_ms(function: Callable[[], Tree], repeats: int, skip: int = 3) -> float:
    """Median milliseconds of `repeats` calls, each awaited, after `skip` calls that are not counted."""
    times = []
    for i in range(repeats + skip):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        if i >= skip:
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def example(side: int, channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, channels), np.uint8), rng.integers(0, 10, count).astype(np.int32)


def make_stepper(config: Config, model: InfoAutoencoder, images: np.ndarray, labels: np.ndarray) -> Stepper:
    """Takes the steps of the autoencoder as `fit` does."""
    (phase, span), *_ = schedule(config, len(images), data_mesh().size)
    state, tables = init_state(model, config), {"images": images, "labels": labels}
    return Stepper(model, phase, span, [config], [state], [tables], Layout(data_mesh()))
