"""The training step as it runs: jitted, donated and shared by the devices. Nowhere else."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.config import AlignmentConfig, RefineConfig, TrainConfig
from infoae_jax.devices.hosts import put
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import InfoAutoencoder, alignment_of
from infoae_jax.training.alignment import align_step
from infoae_jax.training.autoencoder import epoch_order, gathered_train_step, train_step
from infoae_jax.training.refinement import refine_step
from infoae_jax.training.state import TrainState, alignment_helpers, make_hyper, static_config, traced_weights

# Takes (state, steps done, steps that may be taken); returns (state, metrics of the last step, steps taken).
Stepper = Callable[[TrainState, int, int], tuple[TrainState, dict[str, jax.Array], int]]
# XLA computes convolutions within loops about 17 times slower on the CPU (jax-ml/jax#12868), and gains nothing there.
_NO_SCAN = ("cpu",)
_PROGRAMS = 16  # of each kind that are kept with what was compiled of them


def on_all(function: Callable, mesh: Mesh, specs: tuple[P, ...]) -> Callable:
    """`function` jitted, its first argument donated, run by every device on its part of the others.

    That the result is the same on all devices is not checked: it follows from all of them receiving the same sum and
    computing the same with it.
    """
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False), donate_argnums=0)


def make_align_stepper(model: InfoAutoencoder, config: AlignmentConfig, mesh: Mesh) -> Callable[..., Any]:
    """`alignment.align_step` on (state, latents, labels, looks, targets, progress), the batch shared by the devices."""
    return _with_batch(align_program(model, mesh), traced_weights(config), mesh)


def make_refine_stepper(model: InfoAutoencoder, config: RefineConfig, mesh: Mesh) -> Callable[..., Any]:
    """`refine_step` on (state, images, latents, labels, targets, progress), the batch shared by the devices."""
    return _with_batch(refine_program(model, mesh, config.cycle_weight > 0), traced_weights(config), mesh)


def _with_batch(program: Callable, weights: dict[str, Any], mesh: Mesh) -> Callable[..., Any]:
    """`program` on (state, four arrays of the host, progress)."""
    parts, weights = NamedSharding(mesh, P(AXIS)), put(weights, NamedSharding(mesh, P()))

    def take(state: Any, *batch_and_progress: Any) -> tuple[Any, dict[str, jax.Array]]:
        *batch, progress = batch_and_progress
        return program(state, *put(tuple(batch), parts), np.float32(progress), weights)

    return take


@functools.lru_cache(_PROGRAMS)
def train_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh) -> Callable[..., Any]:
    """(state, images, labels, hyper) -> state, metrics."""
    specs = (P(), P(AXIS), P(AXIS), P())
    return on_all(functools.partial(train_step, model, config, axis=AXIS), mesh, specs)


@functools.lru_cache(_PROGRAMS)
def gathered_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh, steps: int) -> Callable[..., Any]:
    """(state, all images, all labels, order, hyper) -> state, metrics."""
    function = functools.partial(gathered_train_step, model, config, axis=AXIS, steps=steps)
    return on_all(function, mesh, (P(),) * 5)


@functools.lru_cache(_PROGRAMS)
def align_program(model: InfoAutoencoder, mesh: Mesh) -> Callable[..., Any]:
    """(state, latents, labels, looks, targets, progress, weights) -> state, metrics."""
    return on_all(align_function(model, AXIS), mesh, (P(), *[P(AXIS)] * 4, P(), P()))


@functools.lru_cache(_PROGRAMS)
def refine_program(model: InfoAutoencoder, mesh: Mesh, cycle: bool) -> Callable[..., Any]:
    """(state, images, latents, labels, targets, progress, weights) -> state, metrics."""
    return on_all(refine_function(model, AXIS, cycle), mesh, (P(), *[P(AXIS)] * 4, P(), P()))


@functools.lru_cache(_PROGRAMS)
def order_program(count: int, mesh: Mesh) -> Callable[..., Any]:
    """(step, hyper) -> `autoencoder.epoch_order` of `count` images, on every device."""
    return jax.jit(functools.partial(epoch_order, num_images=count), out_shardings=NamedSharding(mesh, P()))


def align_function(model: InfoAutoencoder, axis: str | None) -> Callable[..., Any]:
    """`alignment.align_step` with its weights and rate, traced, as the last argument."""
    mapping, helpers = alignment_of(model), alignment_helpers(model)

    def step(state: Any, z: Any, labels: Any, looks: Any, targets: Any, progress: Any, weights: Any) -> Any:
        config = SimpleNamespace(**weights)
        return align_step(mapping, helpers, config, state, z, labels, looks, targets, progress, axis)

    return step


def refine_function(model: InfoAutoencoder, axis: str | None, cycle: bool) -> Callable[..., Any]:
    """`refinement.refine_step` with its weights and rate, traced, as the last argument."""

    def step(state: Any, images: Any, z: Any, labels: Any, targets: Any, progress: Any, weights: Any) -> Any:
        refine = SimpleNamespace(**weights)
        return refine_step(model, refine, state, images, z, labels, targets, progress, axis, cycle)

    return step


def make_stepper(
    model: InfoAutoencoder, config: TrainConfig, images: np.ndarray, labels: np.ndarray, mesh: Mesh
) -> Stepper:
    """Training steps on the data set, from its seeded order.

    On accelerators the data set waits on the device and nothing crosses between host and device in a step; on the host
    (where the 'device' is the same memory) numpy gathers each batch, which saves a copy of the data set for each CPU
    device. `config.steps_per_call` steps are one dispatch where that many may be taken; on the CPU it is always one.
    """
    whole, parts = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    hyper = put(make_hyper(config, len(labels)), whole)
    steps_per_epoch = len(labels) // config.batch_size
    platform = mesh.devices.flat[0].platform
    make_order = order_program(len(labels), mesh)

    order: Any = None
    if config.data_on == "device" or (config.data_on == "auto" and platform != "cpu"):
        images_on, labels_on = put((images, labels), whole)
        per_call = steps_per_call(config, platform)
        by_count = {n: gathered_program(model, static_config(config), mesh, n) for n in {1, per_call}}

        def take(state: TrainState, at: int, most: int) -> tuple[TrainState, dict[str, jax.Array], int]:
            nonlocal order
            if order is None or at % steps_per_epoch == 0:
                order = make_order(state.step, hyper)
            count = per_call if per_call <= most else 1
            return *by_count[count](state, images_on, labels_on, order, hyper), count

    else:
        plain = train_program(model, static_config(config), mesh)

        def take(state: TrainState, at: int, most: int) -> tuple[TrainState, dict[str, jax.Array], int]:
            nonlocal order
            if order is None or at % steps_per_epoch == 0:
                order = np.asarray(make_order(state.step, hyper))
            start = at % steps_per_epoch * config.batch_size
            batch = order[start : start + config.batch_size]
            return *plain(state, *put((images[batch], labels[batch]), parts), hyper), 1

    return take


def steps_per_call(config: TrainConfig, platform: str) -> int:
    return 1 if platform in _NO_SCAN else config.steps_per_call
