"""The steps as they run: jitted, their state donated, and each batch shared by the devices."""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, UInt8

from infoae_jax.config import AlignmentConfig, Config, RefineConfig, TrainConfig
from infoae_jax.devices.hosts import put
from infoae_jax.devices.mesh import AXIS, is_cpu
from infoae_jax.models.autoencoder import InfoAutoencoder, alignment_of
from infoae_jax.training.alignment import align_step
from infoae_jax.training.autoencoder import gathered_train_step, train_step
from infoae_jax.training.order import autoencoder_order, once_an_epoch
from infoae_jax.training.refinement import refine_step
from infoae_jax.training.state import Hyper, TrainState, alignment_helpers, make_hyper, static_config, traced_weights
from infoae_jax.types import Metrics, Tree

# Takes (state, steps done, limit of steps to take); returns (state, metrics of the last step, steps taken).
Stepper: TypeAlias = Callable[[TrainState, int, int], tuple[TrainState, Metrics, int]]
# Returns (state or carry, metrics), on the devices.
Program: TypeAlias = Callable[..., tuple[Tree, Metrics]]
LaterKind: TypeAlias = Literal["align", "refine"]
JIT_CACHE_SIZE = 16  # programs of each kind that are kept, with what was compiled of them


def on_all(function: Callable[..., Any], mesh: Mesh, specs: tuple[P, ...]) -> Program:
    """`function` jitted, its first argument donated, and run by every device on its part of the others.

    That all devices return the same is not checked: they receive the same sums, and compute the same with them.
    """
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False), donate_argnums=0)


@functools.lru_cache(JIT_CACHE_SIZE)
def train_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh) -> Program:
    """`train_step` of (state, images, labels, hyper)."""
    return on_all(functools.partial(train_step, model, config, axis=AXIS), mesh, (P(), P(AXIS), P(AXIS), P()))


@functools.lru_cache(JIT_CACHE_SIZE)
def gathered_program(model: InfoAutoencoder, config: TrainConfig, mesh: Mesh, steps: int) -> Program:
    """`steps` times `gathered_train_step` of (state, all images, all labels, order, hyper)."""
    return on_all(functools.partial(gathered_train_step, model, config, axis=AXIS, steps=steps), mesh, (P(),) * 5)


@functools.lru_cache(JIT_CACHE_SIZE)
def order_program(num_images: int, mesh: Mesh) -> Callable[..., Array]:
    """`autoencoder_order` of (step, hyper), on every device."""
    return jax.jit(functools.partial(autoencoder_order, num_images=num_images), out_shardings=NamedSharding(mesh, P()))


@functools.lru_cache(JIT_CACHE_SIZE)
def later_program(model: InfoAutoencoder, kind: LaterKind, mesh: Mesh, has_cycle: bool = False) -> Program:
    """`later_step`, the batch shared by the devices."""
    return on_all(later_step(model, kind, AXIS, has_cycle), mesh, (P(), *(P(AXIS),) * 4, P(), P()))


def later_step(model: InfoAutoencoder, kind: LaterKind, axis: str | None, has_cycle: bool = False) -> Program:
    """`align_step` or `refine_step` of (carry, a batch of four arrays, progress, weights)."""
    if kind == "align":
        return functools.partial(align_step, alignment_of(model), alignment_helpers(model), axis=axis)
    return functools.partial(refine_step, model, axis=axis, has_cycle=has_cycle)


def later_section(config: Config, kind: LaterKind) -> AlignmentConfig | RefineConfig:
    """The section of the configuration with the weights of that phase."""
    return config.alignment if kind == "align" else config.refine


def make_later_stepper(model: InfoAutoencoder, kind: LaterKind, config: Config, mesh: Mesh) -> Program:
    """Steps of the alignment or the refinement on rows of tables on the host, as in `run.StepRequest`."""
    program = later_program(model, kind, mesh, kind == "refine" and config.refine.cycle_weight > 0)
    split, replicated = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    weights = put(traced_weights(later_section(config, kind)), replicated)

    def take_step(
        carry: Tree, tables: tuple[np.ndarray, ...], rows: np.ndarray, targets: np.ndarray, progress: float
    ) -> tuple[Tree, Metrics]:
        batch = put((*(table[rows] for table in tables), targets), split)
        return program(carry, *batch, np.float32(progress), weights)

    return take_step


def make_stepper(
    model: InfoAutoencoder,
    config: TrainConfig,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    mesh: Mesh,
) -> Stepper:
    """Steps of the autoencoder on the data set, in its seeded order.

    On accelerators the data set waits on the device and nothing crosses between host and device in a step. On the CPU
    (where the 'device' is the same memory) numpy gathers each batch, which saves a copy of the data set for each CPU
    device.
    """
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    hyper, static = put(make_hyper(config, len(labels)), replicated), static_config(config)
    batch_size, steps_per_epoch = config.batch_size, len(labels) // config.batch_size
    make_order = order_program(len(labels), mesh)
    if config.data_on == "device" or (config.data_on == "auto" and not is_cpu()):
        programs = functools.partial(gathered_program, model, static, mesh)
        return gathered_stepper(programs, put((images, labels), replicated), make_order, hyper, config, steps_per_epoch)
    program = train_program(model, static, mesh)
    order = once_an_epoch(lambda *args: np.asarray(make_order(*args)), steps_per_epoch)

    def take_step(state: TrainState, step: int, limit: int) -> tuple[TrainState, Metrics, int]:
        start = step % steps_per_epoch * batch_size
        rows = order(step, state.step, hyper)[start : start + batch_size]
        return *program(state, *put((images[rows], labels[rows]), split), hyper), 1

    return take_step


def gathered_stepper(
    programs: Callable[[int], Program],
    data_set: tuple[Array, Array],
    make_order: Callable[..., Array],
    hyper: Hyper,
    config: TrainConfig,
    steps_per_epoch: int,
) -> Stepper:
    """Steps on images and labels that wait on the device; `programs` makes that of a number of steps in one call."""
    # On the CPU XLA computes convolutions within loops about 17 times slower (jax-ml/jax#12868), and gains nothing.
    per_call = 1 if is_cpu() else config.steps_per_call
    by_steps = {steps: programs(steps) for steps in {1, per_call}}
    order = once_an_epoch(make_order, steps_per_epoch)

    def take_steps(state: Tree, step: int, limit: int) -> tuple[Tree, Tree, int]:  # stacked, in a group
        steps = per_call if per_call <= limit else 1
        return *by_steps[steps](state, *data_set, order(step, state.step, hyper), hyper), steps

    return take_steps
