"""The training step as it runs: jitted, donated and shared by the devices. Nowhere else."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax import alignment, step
from infoae_jax.config import AlignmentConfig, RefineConfig, TrainConfig
from infoae_jax.model import InfoAutoencoder

# Takes (state, steps done, steps that may be taken); returns (state, metrics of the last step, steps taken).
Stepper = Callable[[step.TrainState, int, int], tuple[step.TrainState, dict[str, jax.Array], int]]

AXIS = "data"
# XLA computes convolutions within loops about 17 times slower on the CPU (jax-ml/jax#12868), and gains nothing there.
_NO_SCAN = ("cpu",)


def on_all(function: Callable, mesh: Mesh, specs: tuple[P, ...]) -> Callable:
    """`function` jitted, its first argument donated, run by every device on its part of the others.

    That the result is the same on all devices is not checked: it follows from all of them receiving the same sum and
    computing the same with it.
    """
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False), donate_argnums=0)


def make_align_stepper(model: InfoAutoencoder, config: AlignmentConfig, mesh: Mesh) -> Callable[..., Any]:
    """`alignment.align_step` on (state, latents, labels, looks, targets, progress), the batch shared by the devices."""
    mapping = alignment.Alignment(model.bottleneck, model.num_classes, model.couplings, model.coupling_hidden)
    training = step.alignment_training(model)
    return _with_batch(functools.partial(alignment.align_step, mapping, training, config, axis=AXIS), mesh)


def make_refine_stepper(
    model: InfoAutoencoder, train: TrainConfig, config: RefineConfig, mesh: Mesh
) -> Callable[..., Any]:
    """`step.refine_step` on (state, images, latents, labels, targets, progress), the batch shared by the devices."""
    return _with_batch(functools.partial(step.refine_step, model, train, config, axis=AXIS), mesh)


def _with_batch(function: Callable, mesh: Mesh) -> Callable[..., Any]:
    """`function` on (state, four arrays of the host, progress)."""
    run = on_all(function, mesh, (P(), *[P(AXIS)] * 4, P()))
    parts = NamedSharding(mesh, P(AXIS))

    def take(state: Any, *batch_and_progress: Any) -> tuple[Any, dict[str, jax.Array]]:
        *batch, progress = batch_and_progress
        return run(state, *jax.device_put(tuple(batch), parts), np.float32(progress))

    return take


def make_stepper(
    model: InfoAutoencoder, config: TrainConfig, images: np.ndarray, labels: np.ndarray, mesh: Mesh
) -> Stepper:
    """Training steps on the data set, from its seeded order.

    On accelerators the data set waits on the device and nothing crosses between host and device in a step; on the host
    (where the 'device' is the same memory) numpy gathers each batch, which saves a copy of the data set for each CPU
    device. `config.steps_per_call` steps are one dispatch where that many may be taken; on the CPU it is always one.
    """
    whole, parts = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    hyper = jax.device_put(step.make_hyper(config, len(labels)), whole)
    steps_per_epoch = len(labels) // config.batch_size
    platform = mesh.devices.flat[0].platform
    make_order = jax.jit(functools.partial(step.epoch_order, num_images=len(labels)), out_shardings=whole)

    order: Any = None
    if config.data_on == "device" or (config.data_on == "auto" and platform != "cpu"):
        images_on, labels_on = jax.device_put((images, labels), whole)
        per_call = 1 if platform in _NO_SCAN else config.steps_per_call
        gathered = functools.partial(step.gathered_train_step, model, config, axis=AXIS)
        by_count = {n: on_all(functools.partial(gathered, steps=n), mesh, (P(),) * 5) for n in {1, per_call}}

        def take(state: step.TrainState, at: int, most: int) -> tuple[step.TrainState, dict[str, jax.Array], int]:
            nonlocal order
            if order is None or at % steps_per_epoch == 0:
                order = make_order(state.step, hyper)
            count = per_call if per_call <= most else 1
            return *by_count[count](state, images_on, labels_on, order, hyper), count

    else:
        specs = (P(), P(AXIS), P(AXIS), P())
        plain = on_all(functools.partial(step.train_step, model, config, axis=AXIS), mesh, specs)

        def take(state: step.TrainState, at: int, most: int) -> tuple[step.TrainState, dict[str, jax.Array], int]:
            nonlocal order
            if order is None or at % steps_per_epoch == 0:
                order = np.asarray(make_order(state.step, hyper))
            start = at % steps_per_epoch * config.batch_size
            batch = order[start : start + config.batch_size]
            return *plain(state, *jax.device_put((images[batch], labels[batch]), parts), hyper), 1

    return take
