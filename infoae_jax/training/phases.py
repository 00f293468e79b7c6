"""What a training consists of: the autoencoder, the alignment of its latent, the refinement of its decoder."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from infoae_jax.config import Config
from infoae_jax.devices import hosts
from infoae_jax.errors import DivergedError
from infoae_jax.training.alignment import class_maps
from infoae_jax.training.monitor import Observer, Reporter
from infoae_jax.training.run import Phase, Run, Take, own
from infoae_jax.training.state import TrainState

# Steps the host may run ahead: enough to keep a device busy, few enough to stop quickly. On several CPU devices XLA
# deadlocks when it holds many programs with collectives at once (its threads run out), so there only one.
_IN_FLIGHT = {"cpu": 1}
_IN_FLIGHT_ELSEWHERE = 8


def train_autoencoder(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """The phase that trains all three networks, `train.epochs` long; returns the state and whether it is done."""
    config = run.config
    steps_per_epoch = len(run.splits.train) // config.train.batch_size
    total = run.steps[0]
    at = int(state.step)
    if at >= total:
        return state, True
    look = Observer(run)
    report = Reporter(run, steps_per_epoch, total)
    if at == 0 and 0 in config.log.sample_epochs:
        look(state, 0, 0)

    ahead = _IN_FLIGHT.get(run.mesh.devices.flat[0].platform, _IN_FLIGHT_ELSEWHERE)
    ahead = max(ahead // config.train.steps_per_call, 1)
    in_flight: collections.deque[Any] = collections.deque()  # metrics
    late: tuple[int, Any] | None = None
    carry: Any = state
    begin, begin_at, compiled = time.perf_counter(), at, set()
    with report.bar(at):
        while at < total:
            carry, metrics, taken = yield Take("train", at, carry, (at, _until_event(config, at, steps_per_epoch)))
            at += taken
            if taken not in compiled and at % steps_per_epoch:
                jax.block_until_ready(metrics)  # the first call of its length compiles: out of the rate
                begin, begin_at = time.perf_counter(), at
            compiled.add(taken)
            epoch_ends, stopped = at % steps_per_epoch == 0, run.stop(at)
            in_flight.append(metrics)
            if len(in_flight) > ahead:
                jax.block_until_ready(in_flight.popleft())
            if at % config.log.every_steps == 0:
                # Read one interval late, so that the device never waits for the host.
                if late is not None:
                    report.step(*late)
                late = (at, metrics)
            report.advance(taken)
            save = epoch_ends or stopped or (config.checkpoint.every_steps and at % config.checkpoint.every_steps == 0)
            if not save:
                continue
            if late is not None:
                report.step(*late)
                late = None
            report.sound(at, metrics)  # nothing unsound is ever saved
            state = own(carry)
            if epoch_ends:
                epoch = at // steps_per_epoch
                sums = jax.device_get(state.sums)
                rate = max(at - begin_at, 1) * config.train.batch_size / (time.perf_counter() - begin)
                report.epoch(epoch, at, sums, rate)
                if epoch in config.log.sample_epochs or at == total:
                    look(state, epoch, at)
                begin, begin_at = time.perf_counter(), at
            run.save(at, state)
            if stopped and at < run.steps[-1]:
                return state, False
    return state, True


def train_alignment(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """The phase that trains the alignment on the frozen latents of the training images, `alignment.epochs` long."""
    config, labels, (first, total, _) = run.config.alignment, run.splits.train.labels, run.steps
    at = int(state.step)
    if at >= total:
        return state, True
    z, looks = run.latents(state, "encode_unbounded"), run.looks
    params = dict(state.params["alignment"])
    if at == first:
        # The first host's, as others may round in another way.
        like = {name: params[name] for name in ("mean", "matrix", "inverse_matrix")}
        maps = hosts.from_first(lambda: class_maps(z, labels, run.model.num_classes, looks), like)
        params |= hosts.put(maps, run.replicated)
    before = state

    def as_state(carry: Any, at: int) -> TrainState:
        return dataclasses.replace(
            before,
            step=hosts.put(np.int32(at), run.replicated),
            params=before.params | {"alignment": carry[0]},
            opt_state=before.opt_state | {"alignment": carry[1]},
        )

    carry = params, state.opt_state["alignment"]
    advice = "alignment.lambda_adv or alignment.learning_rate, or without alignment: --config.model.couplings=0"
    span = _Span("align", first, total, at, run.align_batch, config.epochs, run.config.train.epochs, advice)
    return (yield from _take_epochs(run, span, carry, (z, labels, looks), as_state))


def train_decoder(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """The phase that refines the decoder, on swaps too, with all else frozen; `refine.epochs` long."""
    config, train, (_, first, total) = run.config.refine, run.splits.train, run.steps
    at = int(state.step)
    if at >= total:
        return state, True
    if at == first:  # Adam's moments are of other gradients, most of them far smaller
        fresh = jax.tree.map(lambda x: x * 0, state.opt_state["autoencoder"])
        state = dataclasses.replace(state, opt_state=state.opt_state | {"autoencoder": fresh})
    tables = train.images, run.latents(state, "encode"), train.labels
    advice = "refine.learning_rate or one of its weights, or without: --config.refine.epochs=0"
    before = run.config.train.epochs + (run.config.alignment.epochs if run.model.couplings else 0)
    span = _Span("refine", first, total, at, run.config.train.batch_size, config.epochs, before, advice)
    return (yield from _take_epochs(run, span, state, tables, lambda carry, _: carry))


class _Span(NamedTuple):
    """A phase after the autoencoder's."""

    kind: str  # of its lines in metrics.jsonl
    first: int  # step at which it begins
    total: int  # step at which it ends
    at: int  # step at which to go on
    batch: int
    epochs: int
    epochs_before: int
    advice: str  # after 'with a smaller --config.'


def _take_epochs(
    run: Run,
    span: _Span,
    carry: Any,
    tables: tuple[np.ndarray, ...],
    as_state: Callable[[Any, int], TrainState],
) -> Phase[tuple[TrainState, bool]]:
    """The loop of a later phase: epochs in a seeded order, a line for each, checkpoints; stops when asked to.

    Args:
      carry: what a step takes and gives; donated to it, so the state is made of it only where it is saved.
      tables: what the steps get rows of; beside them as many random classes, and the progress in [0, 1).
      as_state: the state to save, from the carry and the step.
    """
    count, at = len(run.splits.train), span.at
    steps_per_epoch = (span.total - span.first) // span.epochs
    order = targets = before = None
    while True:
        epoch, within = divmod(at - span.first, steps_per_epoch)
        if order is None or targets is None or within == 0:
            rng = np.random.default_rng([run.config.train.seed, span.epochs_before, epoch])
            order = rng.permutation(count)
            targets = rng.integers(0, run.model.num_classes, count, np.int32)
        part = slice(within * span.batch, (within + 1) * span.batch)
        progress = (at - span.first) / (span.total - span.first)
        carry, metrics = yield Take(span.kind, at, carry, (tables, order[part], targets[part], progress))
        jax.block_until_ready(before)
        before = metrics
        at += 1
        stopped, every, ends = run.stop(at), run.config.checkpoint.every_steps, within + 1 == steps_per_epoch
        save = at == span.total or stopped or (at % every == 0 if every else ends)
        if save or ends:
            values = {name: float(value) for name, value in jax.device_get(own(metrics)).items()}
            _check_finite(run, span, epoch, at, values)
        if ends:
            run.log(span.kind, at, epoch=epoch + 1, **values)
            if (epoch + 1) % max(span.epochs // 4, 1) == 0 or at == span.total:
                shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
                run.say(f"{span.kind} {epoch + 1}/{span.epochs}  {shown}")
        if save:
            state = as_state(own(carry), at)
            if at == span.total:  # its last losses are of the step before
                _check_finite(run, span, epoch, at, Observer(run)(state, span.epochs_before + span.epochs, at))
            run.save(at, state)
            if at == span.total or stopped:
                return state, not stopped or at == run.steps[-1]


def _check_finite(run: Run, span: _Span, epoch: int, at: int, values: dict[str, float]) -> None:
    if not all(map(math.isfinite, values.values())):
        run.log("diverged", at, **values)
        raise DivergedError(
            f"Phase {span.kind!r} diverged in its epoch {epoch + 1} (step {at}): {values}.\nStart again in another "
            f"--workdir with a smaller --config.{span.advice}."
        )


def _until_event(config: Config, at: int, steps_per_epoch: int) -> int:
    """Steps from `at` to the next one after which there is something to do."""
    periods = (steps_per_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min(period - at % period for period in periods if period)


# In this order. Each is a generator that takes and returns the state, which knows how far it got.
PHASES = (train_autoencoder, train_alignment, train_decoder)
