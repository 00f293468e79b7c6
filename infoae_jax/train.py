"""`fit`: the host loop that wires data, step, checkpoints and the run folder together."""

import collections
import contextlib
import dataclasses
import functools
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from infoae_jax import alignment, data, glance, runlog, step
from infoae_jax.batched import batch_size, make_batched
from infoae_jax.checkpoint import Checkpoints
from infoae_jax.config import Config
from infoae_jax.errors import DivergedError, UserError
from infoae_jax.grid import MAX_COLUMNS, one_of_each, png, swap_grid
from infoae_jax.model import InfoAutoencoder, build
from infoae_jax.stepper import AXIS, make_align_stepper, make_refine_stepper, make_stepper

# Steps the host may run ahead: enough to keep a device busy, few enough to stop quickly. On several CPU devices XLA
# deadlocks when it holds many programs with collectives at once (its threads run out), so there only one.
_IN_FLIGHT = {"cpu": 1}
_IN_FLIGHT_ELSEWHERE = 8
_PLAIN_SECONDS = 30  # without a terminal, a line at most this often within an epoch
# Cross-entropy of a coin-flip among 1e6 classes is 14 nats. An adversary loss beyond this is an encoder that runs away.
_DIVERGED_LOSS = 1e3


@dataclasses.dataclass
class Run:
    """What the phases of a training share."""

    config: Config
    folder: Path
    splits: data.Splits
    model: InfoAutoencoder
    mesh: Mesh
    checkpoints: Checkpoints
    stop: Callable[[], bool]
    tensorboard: Any  # a tensorboardX writer, or None

    @property
    def align_batch(self) -> int:
        """Latents in a step of the alignment: as configured, or as many as there are, shared equally by the devices."""
        most = min(self.config.alignment.batch_size, len(self.splits.train))
        return max(most // self.mesh.size, 1) * self.mesh.size

    @property
    def steps(self) -> tuple[int, int, int]:
        """At which step each phase is done."""
        count, train, align = len(self.splits.train), self.config.train, self.config.alignment
        per_epoch = count // train.batch_size
        first = per_epoch * train.epochs
        second = first + (count // self.align_batch * align.epochs if self.model.couplings else 0)
        return first, second, second + per_epoch * self.config.refine.epochs

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """Batches are cut along their first axis, one part for each device."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def latents(self, state: step.TrainState, method: str) -> np.ndarray:
        """What the model's `method` ('embed', 'encode') gives for the training images, in their order."""
        images = self.splits.train.images
        apply = functools.partial(self.model.apply, method=method)
        return make_batched(apply, self.mesh, images.shape[1] * images.shape[2])({"params": state.params}, images)

    def log(self, kind: str, at: int, **values: float) -> None:
        runlog.append(self.folder, kind, step=at, **values)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(f"{kind}/{name}", value, at)


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit` leaves: the state, and whether all phases are done (False: stopped by a signal, to be resumed).

    stopped: a signal came, be it after the last step.
    """

    state: step.TrainState
    finished: bool
    stopped: bool = False


def fit(config: Config, workdir: str | Path, devices: Sequence[jax.Device] | None = None) -> Result:
    """Trains as `config` says in the run folder `workdir`, or goes on where a former call stopped.

    Each batch is shared by `devices` (all local ones by default). SIGINT and SIGTERM (in the main thread) finish the
    step (or `steps_per_call` of them), save, and return. A second SIGINT interrupts at once.

    Raises:
      UserError: if something about the input, the folder or the devices cannot work.
      DivergedError: if a loss leaves the range of useful numbers; the last sound checkpoint stays.
    """
    folder = Path(workdir)
    devices = jax.local_devices() if devices is None else devices
    if config.train.batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of the {len(devices)} "
            f"devices that share it."
        )
    with runlog.lock(folder):
        splits = data.load(config.data)
        shape = splits.train.images.shape[1:]
        classes = len(splits.train.class_names)
        model = build(config.model, (shape[0], shape[1], shape[2]), classes, config.train.dtype)
        if config.train.batch_size > len(splits.train):
            raise UserError(
                f"config.train.batch_size is {config.train.batch_size}, but the training split has only "
                f"{len(splits.train)} images. Make it smaller."
            )
        total_steps = len(splits.train) // config.train.batch_size * config.train.epochs
        if total_steps >= 2**31:
            raise UserError(f"config.train.epochs is {config.train.epochs}: {total_steps} steps are beyond 32 bits.")
        info = runlog.RunInfo(
            config, model.image_shape, splits.train.class_names, len(splits.train), len(splits.test), splits.fingerprint
        )
        try:
            runlog.open_run(folder, info, f"{len(devices)} x {devices[0].device_kind}")
            with _signals() as stop:
                result = _fit(config, folder, splits, model, stop, devices)
                return dataclasses.replace(result, stopped=stop())
        except OSError as error:
            raise UserError(
                f"The run folder {str(folder)!r} could not be written ({error}). Its last checkpoint is intact: make "
                f"room and run the same command to go on."
            ) from error


def _fit(
    config: Config,
    folder: Path,
    splits: data.Splits,
    model: InfoAutoencoder,
    stop: Callable[[], bool],
    devices: Sequence[jax.Device],
) -> Result:
    # An Auto mesh, not the Explicit one that jax.make_mesh gives: sharding is no part of the types here.
    mesh = Mesh(np.array(devices), (AXIS,))
    with contextlib.ExitStack() as stack:
        tensorboard = stack.enter_context(_tensorboard(folder)) if config.log.tensorboard else None
        checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoint.keep))
        run = Run(config, folder, splits, model, mesh, checkpoints, stop, tensorboard)
        device = f"{len(devices)} x {devices[0].device_kind}"
        state, start = _initial_state(run)
        before = runlog.read(folder)
        # The line alone proves nothing: it may be there although the last checkpoint never reached the disk.
        if start == run.steps[-1] and any(line["kind"] == "end" for line in before):
            return Result(state, True)
        devices_before = [line["device"] for line in before if line["kind"] == "start"]
        if start and devices_before[-1:] not in ([], [device]):
            warnings.warn(
                f"This run was on {devices_before[-1]} and is on {device} now. It goes on, but not bit for bit as it "
                f"would have there (--cpu_devices chooses another number).",
                stacklevel=2,
            )
        runlog.append(folder, "start", step=start, device=device, environment=runlog.environment(), time=runlog.now())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        print(
            f"{config.data.name}: {len(splits.train):,} + {len(splits.test):,} images of "
            f"{'x'.join(map(str, model.image_shape))}, {model.num_classes} classes; {parameters:,} parameters; "
            f"{device}; run folder {folder}" + (f"; goes on at step {start}" if start else ""),
            flush=True,
        )
        finished = True
        for phase in PHASES:
            state, finished = phase(run, state)
            if not finished:
                runlog.append(folder, "stop", step=int(state.step), time=runlog.now())
                break
        else:
            runlog.append(folder, "end", step=int(state.step), time=runlog.now())
    return Result(state, finished)


def _initial_state(run: Run) -> tuple[step.TrainState, int]:
    """The newest checkpoint's state, or a fresh one, on all devices; and its step."""
    init = functools.partial(step.init_state, run.model, run.config.train)
    seed = np.uint32(run.config.train.seed)
    abstract = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=run.replicated), jax.eval_shape(init, seed)
    )
    restored = run.checkpoints.restore(abstract)
    if restored is not None:
        return restored[1], restored[0]
    return jax.jit(init, out_shardings=run.replicated)(seed), 0


def train_autoencoder(run: Run, state: step.TrainState) -> tuple[step.TrainState, bool]:
    """The phase that trains all three networks, `train.epochs` long; returns the state and whether it is done."""
    config = run.config
    steps_per_epoch = len(run.splits.train) // config.train.batch_size
    total = run.steps[0]
    at = int(state.step)
    if at >= total:
        return state, True
    take_steps = make_stepper(run.model, config.train, run.splits.train.images, run.splits.train.labels, run.mesh)
    look = _Observer(run)
    report = _Reporter(run, steps_per_epoch, total)
    if at == 0 and 0 in config.log.sample_epochs:
        look(state, 0, 0)

    ahead = _IN_FLIGHT.get(run.mesh.devices.flat[0].platform, _IN_FLIGHT_ELSEWHERE)
    ahead = max(ahead // config.train.steps_per_call, 1)
    in_flight: collections.deque[dict[str, jax.Array]] = collections.deque()
    late: tuple[int, dict[str, jax.Array]] | None = None
    begin, begin_at, compiled = time.perf_counter(), at, set()
    with report.bar(at):
        while at < total:
            state, metrics, taken = take_steps(state, at, _until_event(config, at, steps_per_epoch))
            at += taken
            if taken not in compiled and at % steps_per_epoch:
                jax.block_until_ready(metrics)  # the first call of its length compiles: out of the rate
                begin, begin_at = time.perf_counter(), at
            compiled.add(taken)
            epoch_ends, stopped = at % steps_per_epoch == 0, run.stop()
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
            if epoch_ends:
                epoch = at // steps_per_epoch
                sums = jax.device_get(state.sums)
                rate = max(at - begin_at, 1) * config.train.batch_size / (time.perf_counter() - begin)
                report.epoch(epoch, at, sums, rate)
                if epoch in config.log.sample_epochs or at == total:
                    look(state, epoch, at)
                begin, begin_at = time.perf_counter(), at
            run.checkpoints.save(at, state)
            if stopped and at < run.steps[-1]:
                return state, False
    return state, True


def train_alignment(run: Run, state: step.TrainState) -> tuple[step.TrainState, bool]:
    """The phase that trains the alignment on the frozen latents of the training images, `alignment.epochs` long."""
    config, train, (first, total, _) = run.config.alignment, run.splits.train, run.steps
    at = int(state.step)
    if at >= total:
        return state, True
    z = run.latents(state, "embed")
    looks = glance.styles(train.images, train.labels, run.model.num_classes)
    params = dict(state.params["alignment"])
    if at == first:
        maps = alignment.class_maps(z, train.labels, run.model.num_classes, looks)
        params |= jax.device_put(maps, run.replicated)
    take_step = make_align_stepper(run.model, config, run.mesh)
    before = state

    def take(carry: Any, rows: np.ndarray, targets: np.ndarray, progress: float) -> tuple[Any, dict[str, jax.Array]]:
        return take_step(carry, z[rows], train.labels[rows], looks[rows], targets, progress)

    def as_state(carry: Any, at: int) -> step.TrainState:
        return dataclasses.replace(
            before,
            step=jax.device_put(jnp.int32(at), run.replicated),
            params=before.params | {"alignment": carry[0]},
            opt_state=before.opt_state | {"alignment": carry[1]},
        )

    carry = params, state.opt_state["alignment"]
    advice = "alignment.lambda_adv or alignment.learning_rate, or without alignment: --config.model.couplings=0"
    span = _Span("align", first, total, at, run.align_batch, config.epochs, run.config.train.epochs, advice)
    return _take_epochs(run, span, carry, take, as_state)


def train_decoder(run: Run, state: step.TrainState) -> tuple[step.TrainState, bool]:
    """The phase that refines the decoder, on swaps too, with all else frozen; `refine.epochs` long."""
    config, train, (_, first, total) = run.config.refine, run.splits.train, run.steps
    at = int(state.step)
    if at >= total:
        return state, True
    z = run.latents(state, "encode")
    take_step = make_refine_stepper(run.model, run.config.train, config, run.mesh)

    def take(carry: Any, rows: np.ndarray, targets: np.ndarray, progress: float) -> tuple[Any, dict[str, jax.Array]]:
        return take_step(carry, train.images[rows], z[rows], train.labels[rows], targets, progress)

    advice = "refine.learning_rate, refine.style_weight or refine.content_weight, or without: --config.refine.epochs=0"
    before = run.config.train.epochs + (run.config.alignment.epochs if run.model.couplings else 0)
    span = _Span("refine", first, total, at, run.config.train.batch_size, config.epochs, before, advice)
    return _take_epochs(run, span, state, take, lambda carry, _: carry)


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
    take: Callable[..., tuple[Any, dict[str, jax.Array]]],
    as_state: Callable[[Any, int], step.TrainState],
) -> tuple[step.TrainState, bool]:
    """The loop of a later phase: epochs in a seeded order, a line for each, checkpoints; stops when asked to.

    Args:
      carry: what a step takes and gives; donated to it, so the state is made of it only where it is saved.
      take: (carry, rows of the training images, as many random classes, progress in [0, 1)) -> carry, metrics.
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
        carry, metrics = take(carry, order[part], targets[part], progress)
        jax.block_until_ready(before)
        before = metrics
        at += 1
        stopped, every, ends = run.stop(), run.config.checkpoint.every_steps, within + 1 == steps_per_epoch
        save = at == span.total or stopped or (every and at % every == 0)
        if save or ends:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not all(map(math.isfinite, values.values())):
                run.log("diverged", at, **values)
                raise DivergedError(
                    f"Phase {span.kind!r} diverged in its epoch {epoch + 1} (step {at}): {values}.\nStart again in "
                    f"another --workdir with a smaller --config.{span.advice}."
                )
        if ends:
            run.log(span.kind, at, epoch=epoch + 1, **values)
            if (epoch + 1) % max(span.epochs // 4, 1) == 0 or at == span.total:
                shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
                print(f"{span.kind} {epoch + 1}/{span.epochs}  {shown}", flush=True)
        if save:
            state = as_state(carry, at)
            if at == span.total:
                _Observer(run)(state, span.epochs_before + span.epochs, at)
            run.checkpoints.save(at, state)
            if at == span.total or stopped:
                return state, not stopped or at == run.steps[-1]


def _until_event(config: Config, at: int, steps_per_epoch: int) -> int:
    """Steps from `at` to the next one after which there is something to do."""
    periods = (steps_per_epoch, config.log.every_steps, config.checkpoint.every_steps)
    return min(period - at % period for period in periods if period)


# What a training consists of, in this order. Each takes and returns the state, which knows how far it got.
PHASES = (train_autoencoder, train_alignment, train_decoder)


def check_sound(values: dict[str, float], at: int, steps_per_epoch: int) -> None:
    """Raises `DivergedError` if a metric is not finite or the adversary's loss has run away."""
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if not wrong and values["adversary"] < _DIVERGED_LOSS:
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    epoch = (at - 1) / steps_per_epoch + 1
    if not wrong:
        cause = f"the adversary's loss is {values['adversary']:.4g}: the encoder wins by making its latent ever larger"
    else:
        cause = f"{' and '.join(wrong)} became infinite or not a number"
    raise DivergedError(
        f"Training diverged in epoch {int(epoch)} (step {at}): {cause}.\n  {figures}\n"
        f"Start again in another --workdir with a smaller --config.train.lambda_adv, with "
        f"--config.model.latent=sphere, or with --config.train.lambda_schedule=linear. A smaller "
        f"--config.train.learning_rate or --config.train.clip_norm=1 help when it is not the adversary."
    )


class _Observer:
    """Test figures and a picture of swaps, at chosen epochs."""

    def __init__(self, run: Run):
        self._run = run
        test = run.splits.test
        pixels = test.images.shape[1] * test.images.shape[2]
        self._size = batch_size(len(test), pixels, run.mesh)
        self._sums = jax.jit(
            functools.partial(step.evaluation_sums, run.model),
            in_shardings=(run.replicated, run.split, run.split, run.split),
            out_shardings=run.replicated,
        )
        self._rows = one_of_each(test.labels)
        self._classes = np.arange(min(run.model.num_classes, MAX_COLUMNS), dtype=np.int32)
        self._swap = make_batched(functools.partial(run.model.apply, method="transfer"), run.mesh, pixels)

    def __call__(self, state: step.TrainState, epoch: int, at: int) -> None:
        figures = self.figures(state.params)
        self._run.log("test", at, epoch=epoch, **figures)
        tqdm.write(f"{'':>9}  test: mse {figures['reconstruction']:.5f}, content {figures['content_accuracy']:.2%}")
        sources = self._run.splits.test.images[self._rows]
        rows, columns = len(sources), len(self._classes)
        styles = np.repeat(sources, columns, axis=0)
        swaps = self._swap({"params": state.params}, styles, np.tile(self._classes, rows))
        swaps = swaps.reshape(rows, columns, *swaps.shape[1:])
        folder = self._run.folder / "samples"
        folder.mkdir(exist_ok=True)
        picture = swap_grid(sources, swaps)
        runlog.write_atomically(folder / f"epoch_{epoch:04d}.png", png(picture))

    def figures(self, params: Any) -> dict[str, float]:
        """Means over the whole test split, each image counted once."""
        test = self._run.splits.test
        total: collections.Counter[str] = collections.Counter()
        for start in range(0, len(test), self._size):
            images, labels = test.images[start : start + self._size], test.labels[start : start + self._size]
            mask = np.arange(self._size) < len(labels)
            missing = self._size - len(labels)
            batch = (
                np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]),
                np.pad(labels, (0, missing)),
                mask.astype(np.float32),
            )
            sums = self._sums(params, *jax.device_put(batch, self._run.split))
            total.update({name: float(value) for name, value in jax.device_get(sums).items()})
        count = total.pop("count")
        return {name: value / count for name, value in total.items()}


class _Reporter:
    """Losses to metrics.jsonl and to the terminal: a bar where there is one, plain lines otherwise."""

    def __init__(self, run: Run, steps_per_epoch: int, total: int):
        self._run, self._steps_per_epoch, self._total = run, steps_per_epoch, total
        self._bar: Any = None
        self._shown = time.monotonic()

    @contextlib.contextmanager
    def bar(self, start: int) -> Iterator[None]:
        size = self._run.config.train.batch_size
        images = {"total": self._total * size, "initial": start * size, "unit": " images", "unit_scale": True}
        shown = sys.stderr.isatty()
        with tqdm(**images, disable=not shown, dynamic_ncols=True, leave=False) as self._bar:
            yield

    def advance(self, steps: int) -> None:
        self._bar.update(steps * self._run.config.train.batch_size)

    def sound(self, at: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """The metrics on the host; unsound ones are logged and raised."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        try:
            check_sound(values, at, self._steps_per_epoch)
        except DivergedError:
            self._run.log("diverged", at, **values)
            raise
        return values

    def step(self, at: int, metrics: dict[str, jax.Array]) -> None:
        values = self.sound(at, metrics)
        self._run.log("step", at, **values)
        losses = f"mse {values['reconstruction']:.5f} adversary {values['adversary']:.3f}"
        self._bar.set_postfix_str(losses, refresh=False)
        if self._bar.disable and time.monotonic() - self._shown > _PLAIN_SECONDS:
            self._shown = time.monotonic()
            print(f"step {at}/{self._total}  {losses}", flush=True)

    def epoch(self, epoch: int, at: int, sums: dict[str, Any], images_per_s: float) -> None:
        means = {name: float(value) / float(sums["count"]) for name, value in sums.items() if name != "count"}
        self._run.log("epoch", at, epoch=epoch, **means, images_per_s=images_per_s)
        left = (self._total - at) * self._run.config.train.batch_size / images_per_s
        epochs, width = self._run.config.train.epochs, len(str(self._run.config.train.epochs))
        right, content = means["adversary_accuracy"], means["content_accuracy"]
        tqdm.write(
            f"{epoch:>{width}}/{epochs}  mse {means['reconstruction']:.5f}  adversary {means['adversary']:.3f} "
            f"({right:.1%} right)  content {content:.1%}  lambda {means['lambda']:.2g}  {images_per_s:,.0f} images/s  "
            f"{tqdm.format_interval(left)} left"
        )
        self._shown = time.monotonic()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop asks after each step."""
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this step, and saving ...", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    former = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "config.log.tensorboard is True, but tensorboardX is not installed: pip install -e '.[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
