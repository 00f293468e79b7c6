"""The phases of a training: autoencoder, alignment of its latent, refinement of its decoder.

Each is a generator that takes the state, asks for steps (`run.StepRequest`), logs and saves, and returns the state and
whether the phase is done (False: it was stopped). The state knows how far it got.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from infoae_jax.config import Config
from infoae_jax.devices import hosts
from infoae_jax.devices.mesh import is_cpu
from infoae_jax.training.alignment import class_maps
from infoae_jax.training.monitor import Reporter, check_sound, observe
from infoae_jax.training.order import later_order
from infoae_jax.training.run import Phase, Run, StepRequest, own_slice
from infoae_jax.training.state import TrainState
from infoae_jax.training.stepper import LaterKind
from infoae_jax.types import Metrics, Tree

MAX_STEPS_AHEAD = 8  # of the host: enough to keep a device busy, few enough to stop quickly


def train_autoencoder(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """Trains all three networks, for `train.epochs`."""
    config, total, step = run.config, run.steps[0], int(state.step)
    steps_per_epoch = len(run.splits.train) // config.train.batch_size
    report = Reporter(run, steps_per_epoch)
    if step == 0 and 0 in config.log.sample_epochs:
        observe(run, state, 0, 0)
    # On several CPU devices XLA deadlocks when it holds many programs with collectives (its threads run out).
    max_ahead = 1 if is_cpu() else max(MAX_STEPS_AHEAD // config.train.steps_per_call, 1)
    in_flight: collections.deque[Metrics] = collections.deque()
    carry: Tree = state
    begin, first_step, compiled = time.perf_counter(), step, set()
    with report.bar(step):
        while step < total:
            limit = steps_until_event(config, step, steps_per_epoch)
            carry, metrics, taken = yield StepRequest("train", step, carry, (step, limit))
            step += taken
            epoch_ends, stopped = step % steps_per_epoch == 0, run.should_stop(step)
            if taken not in compiled and not epoch_ends:
                jax.block_until_ready(metrics)  # the first call of its length compiles: left out of images/s
                begin, first_step = time.perf_counter(), step
            compiled.add(taken)
            in_flight.append(metrics)
            if len(in_flight) > max_ahead:
                jax.block_until_ready(in_flight.popleft())
            report.step(step, taken, metrics)
            every = config.checkpoint.every_steps
            if not (epoch_ends or stopped or (every and step % every == 0)):
                continue
            report.check(step, metrics)  # nothing unsound is ever saved
            state = own_slice(carry)
            if epoch_ends:
                sums, seconds = jax.device_get(state.sums), time.perf_counter() - begin
                report.epoch(step, sums, max(step - first_step, 1) * config.train.batch_size / seconds)
                epoch = step // steps_per_epoch
                if epoch in config.log.sample_epochs or step == total:
                    observe(run, state, epoch, step)
                begin, first_step = time.perf_counter(), step
            run.save(step, state)
            if stopped and step < run.steps[-1]:
                return state, False
    return state, True


def steps_until_event(config: Config, step: int, steps_per_epoch: int) -> int:
    """Number of steps from `step` to the next one after which there is something to log or save."""
    periods = (steps_per_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min(period - step % period for period in periods if period)


def train_alignment(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """Trains the alignment on the frozen latents of the training images, for `alignment.epochs`."""
    config, (first, total, _) = run.config, run.steps
    z, labels, appearance = run.latents(state, "encode_unbounded"), run.splits.train.labels, run.appearance
    params = dict(state.params["alignment"])
    if int(state.step) == first:
        # Computed by the first host for all, as others may round differently.
        like = {name: params[name] for name in ("mean", "matrix", "inverse_matrix")}
        maps = hosts.from_first(lambda: class_maps(z, labels, run.model.num_classes, appearance), like)
        params |= hosts.put(maps, run.replicated)

    def as_state(carry: Tree, step: int) -> TrainState:
        return dataclasses.replace(
            state,
            step=hosts.put(np.int32(step), run.replicated),
            params=state.params | {"alignment": carry[0]},
            opt_state=state.opt_state | {"alignment": carry[1]},
        )

    phase = _LaterPhase("align", first, total, run.align_batch, config.alignment.epochs, config.train.epochs)
    carry = params, state.opt_state["alignment"]
    return (yield from _train_later(run, phase, int(state.step), carry, (z, labels, appearance), as_state))


def train_decoder(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """Refines the decoder on reconstructions and swaps, with all else frozen, for `refine.epochs`."""
    config, train, (_, first, total) = run.config, run.splits.train, run.steps
    if int(state.step) == first:  # Adam's moments are those of other gradients, most of them far smaller
        fresh = jax.tree.map(lambda x: x * 0, state.opt_state["autoencoder"])
        state = dataclasses.replace(state, opt_state=state.opt_state | {"autoencoder": fresh})
    epochs_before = config.train.epochs + (config.alignment.epochs if run.model.couplings else 0)
    phase = _LaterPhase("refine", first, total, config.train.batch_size, config.refine.epochs, epochs_before)
    tables = train.images, run.latents(state, "encode"), train.labels
    return (yield from _train_later(run, phase, int(state.step), state, tables, lambda carry, _: carry))


class _LaterPhase(NamedTuple):
    kind: LaterKind
    first: int  # number of steps, over all phases, at its beginning
    total: int  # the same at its end
    batch_size: int
    epochs: int
    epochs_before: int  # of all phases before it


def _train_later(
    run: Run,
    phase: _LaterPhase,
    step: int,
    carry: Tree,
    tables: tuple[np.ndarray, ...],
    as_state: Callable[[Tree, int], TrainState],
) -> Phase[tuple[TrainState, bool]]:
    """The loop of a later phase, after `step` steps over all phases; `tables` are what the steps get rows of.

    A step takes `carry`, which is donated, and returns the next; `as_state` makes a state of it where one is saved.
    """
    steps_per_epoch, every = (phase.total - phase.first) // phase.epochs, run.config.checkpoint.every_steps
    order_of = functools.lru_cache(1)(functools.partial(later_order, run.config.train.seed, phase.epochs_before))
    before: Metrics | None = None
    while True:
        epoch, within = divmod(step - phase.first, steps_per_epoch)
        order, targets = order_of(epoch, len(run.splits.train), run.model.num_classes)
        part = slice(within * phase.batch_size, (within + 1) * phase.batch_size)
        progress = (step - phase.first) / (phase.total - phase.first)
        carry, metrics = yield StepRequest(phase.kind, step, carry, (tables, order[part], targets[part], progress))
        jax.block_until_ready(before)
        before = metrics
        step, epoch = step + 1, epoch + 1  # from here on as they are logged
        is_done, stopped, epoch_ends = step == phase.total, run.should_stop(step), within + 1 == steps_per_epoch
        saves = is_done or stopped or (step % every == 0 if every else epoch_ends)
        if saves or epoch_ends:
            values = check_sound(run, phase.kind, epoch, step, metrics)
        if epoch_ends:
            run.log(phase.kind, step, epoch=epoch, **values)
            if epoch % max(phase.epochs // 4, 1) == 0 or is_done:
                shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
                run.print(f"{phase.kind} {epoch}/{phase.epochs}  {shown}")
        if saves:
            state = as_state(own_slice(carry), step)
            if is_done:  # its last metrics are from before the last step
                check_sound(run, phase.kind, epoch, step, observe(run, state, phase.epochs_before + epoch, step))
            run.save(step, state)
            if is_done or stopped:
                return state, not stopped or step == run.steps[-1]


PHASES = (train_autoencoder, train_alignment, train_decoder)  # in this order, which is that of `Run.steps`
