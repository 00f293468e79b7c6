"""`fit`: the host loop that wires data, step, checkpoints and the run folder together."""

import contextlib
import dataclasses
import functools
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding

from infoae_jax.config import Config, to_dict
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.devices.mesh import AXIS
from infoae_jax.errors import UserError
from infoae_jax.models.autoencoder import InfoAutoencoder, build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, lock, open_run
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import environment, now
from infoae_jax.training.phases import PHASES
from infoae_jax.training.run import Phase, Run
from infoae_jax.training.state import TrainState, init_state
from infoae_jax.training.stepper import make_align_stepper, make_refine_stepper, make_stepper

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit` leaves: the state, and whether all phases are done (False: stopped by a signal, to be resumed).

    stopped: a signal came, be it after the last step.
    """

    state: TrainState
    finished: bool
    stopped: bool = False


def fit(config: Config, workdir: str | Path, devices: Sequence[jax.Device] | None = None) -> Result:
    """Trains as `config` says in the run folder `workdir`, or goes on where a former call stopped.

    Each batch is shared by `devices` (by default all: local ones, and those of other processes that `hosts.connect`
    joined; these call `fit` as well, and the first of them alone reads and writes `workdir`). SIGINT and SIGTERM (in
    the main thread) finish the step (or `steps_per_call` of them; with several processes: up to the next multiple of
    `log.every_steps`), save, and return. A second SIGINT interrupts at once.

    Raises:
      UserError: if something about the input, the folder or the devices cannot work.
      DivergedError: if a loss leaves the range of useful numbers; the last sound checkpoint stays.
    """
    folder = Path(workdir)
    if devices is None:
        devices = jax.local_devices() if jax.process_count() == 1 else jax.devices()
    if config.train.batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of the {len(devices)} "
            f"devices that share it."
        )
    # An Auto mesh, not the Explicit one that jax.make_mesh gives: sharding is no part of the types here.
    mesh = Mesh(np.array(devices), (AXIS,))
    near = mesh if jax.process_count() == 1 else Mesh(np.array(jax.local_devices()), (AXIS,))
    device = f"{len(devices)} x {devices[0].device_kind}"
    with contextlib.ExitStack() as stack:
        hosts.check_same("settings", repr({**to_dict(config), "data": None}))  # where the images are may differ
        hosts.on_first(lambda: stack.enter_context(lock(folder)))
        splits = load_splits(config.data)
        hosts.check_same("images", splits.fingerprint)
        stopped = stack.enter_context(signals())
        stop = stopped if jax.process_count() == 1 else _agreed(stopped, config.log.every_steps)
        with unwritten(folder), contextlib.ExitStack() as files:
            run = prepare_run(config, folder, splits, mesh, near, stop, device, files)
            start, state = restore_state(run)
            if is_finished(run, start):
                return Result(state, True, stopped(start))
            log_start(run, state, start, device)
            state, finished = _alone(run, train_phases(run, state))
        return Result(state, finished, stopped(start))


def prepare_run(
    config: Config,
    folder: Path,
    splits: Splits,
    mesh: Mesh,
    near: Mesh,
    stop: Callable[[int], bool],
    device: str,
    stack: contextlib.ExitStack,
) -> Run:
    """The run in `folder`, which is locked, as yet without a step taken; its files are closed by `stack`.

    Raises:
      UserError: if the configuration does not suit the images, or the folder holds another experiment.
    """
    model = build_for(config, splits)
    train, test = splits.train, splits.test
    info = RunInfo(config, model.image_shape, train.class_names, len(train), len(test), splits.fingerprint)
    hosts.on_first(lambda: open_run(folder, info, device))
    run = Run(config, folder, splits, model, mesh, near, None, stop)
    if hosts.is_first():
        wait = mesh.devices.flat[0].platform == "cpu"
        run.tensorboard = stack.enter_context(_tensorboard(folder)) if config.log.tensorboard else None
        run.checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoint.keep, wait))
    else:
        run.writes, run.say, run.bar = False, lambda text: None, False
    return run


def build_for(config: Config, splits: Splits) -> InfoAutoencoder:
    """The model for these images.

    Raises:
      UserError: if the configuration does not suit them.
    """
    count, train = len(splits.train), config.train
    if train.batch_size > count:
        raise UserError(
            f"config.train.batch_size is {train.batch_size}, but the training split has only {count} images. Make it "
            f"smaller."
        )
    total_steps = count // train.batch_size * train.epochs
    if total_steps >= 2**31:
        raise UserError(f"config.train.epochs is {train.epochs}: {total_steps} steps are beyond 32 bits.")
    height, width, channels = splits.train.images.shape[1:]
    return build(config.model, (height, width, channels), len(splits.train.class_names), train.dtype)


@functools.lru_cache(16)
def _init_program(model: InfoAutoencoder, sharding: NamedSharding) -> Any:
    return jax.jit(functools.partial(init_state, model), out_shardings=sharding)


def restore_state(run: Run, at: int | None = None) -> tuple[int, TrainState]:
    """The newest checkpoint's step and state (or those of the one of step `at`), or fresh ones, on all devices."""
    init = _init_program(run.model, run.replicated)
    seed = np.uint32(run.config.train.seed)
    shapes = init.eval_shape(seed)
    if jax.process_count() == 1:
        assert run.checkpoints is not None
        restored = run.checkpoints.restore(_abstract(shapes, run.replicated), at)
        return restored or (0, init(seed))

    def find() -> tuple[int, Any]:
        assert run.checkpoints is not None
        here = SingleDeviceSharding(jax.local_devices()[0])
        return run.checkpoints.restore(_abstract(shapes, here), at) or (-1, nothing)

    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    found, state = hosts.from_first(find, (-1, nothing))
    return (0, init(seed)) if found < 0 else (int(found), hosts.put(state, run.replicated))


def _abstract(shapes: Any, sharding: Sharding) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)


def is_finished(run: Run, start: int) -> bool:
    # The line alone proves nothing: it may be there although the last checkpoint never reached the disk.
    ended = hosts.from_first(lambda: any(line["kind"] == "end" for line in read_metrics(run.folder)), False)
    return start == run.steps[-1] and bool(ended)


def log_start(run: Run, state: TrainState, start: int, device: str) -> None:
    """Notes in the run folder, and says, that the run begins or goes on."""
    if not run.writes:
        return
    before = [line["device"] for line in read_metrics(run.folder, "start")]
    if start and before[-1:] not in ([], [device]):
        warnings.warn(
            f"This run was on {before[-1]} and is on {device} now. It goes on, but not bit for bit as it would have "
            f"there (--cpu_devices chooses another number).",
            stacklevel=3,
        )
    append_metrics(run.folder, "start", step=start, device=device, environment=environment(), time=now())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    model, splits = run.model, run.splits
    run.say(
        f"{run.config.data.name}: {len(splits.train):,} + {len(splits.test):,} images of "
        f"{'x'.join(map(str, model.image_shape))}, {model.num_classes} classes; {parameters:,} parameters; "
        f"{device}; run folder {run.folder}" + (f"; goes on at step {start}" if start else "")
    )


def train_phases(run: Run, state: TrainState) -> Phase[tuple[TrainState, bool]]:
    """All phases; returns the state and whether they are done (False: stopped)."""
    finished = True
    for phase in PHASES:
        state, finished = yield from phase(run, state)
        if not finished:
            break
    if run.writes:
        append_metrics(run.folder, "end" if finished else "stop", step=int(state.step), time=now())
    return state, finished


def _alone(run: Run, phases: Phase[T]) -> T:
    """Takes the steps that `phases` ask for, the batches shared by the devices; returns what they return."""
    kind, answer = "", None
    take: Callable[..., Any]
    while True:
        try:
            ask = phases.send(answer)
        except StopIteration as end:
            return end.value
        if ask.kind != kind:
            kind, take = ask.kind, _stepper(run, ask.kind)
        answer = take(ask.carry, *ask.arguments)


def _stepper(run: Run, kind: str) -> Callable[..., Any]:
    model, config, train = run.model, run.config, run.splits.train
    if kind == "train":
        return make_stepper(model, config.train, train.images, train.labels, run.mesh)
    if kind == "align":
        take = make_align_stepper(model, config.alignment, run.mesh)
    else:
        take = make_refine_stepper(model, config.refine, run.mesh)

    def gather(carry: Any, tables: tuple[np.ndarray, ...], rows: np.ndarray, targets: np.ndarray, progress: float):
        return take(carry, *(table[rows] for table in tables), targets, progress)

    return gather


@contextlib.contextmanager
def unwritten(folder: Path) -> Iterator[None]:
    """Says in a sentence that the run folder could not be written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The run folder {str(folder)!r} could not be written ({error}). Its last checkpoint is intact: make "
            f"room and run the same command to go on."
        ) from error


def _agreed(stopped: Callable[[int], bool], every: int) -> Callable[[int], bool]:
    """Whether any process was asked to stop; all find out at the same steps, as they have to stop at the same one."""
    return lambda at: at % every == 0 and hosts.any_of(stopped(at))


@contextlib.contextmanager
def signals() -> Iterator[Callable[[int], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop asks after each step.

    SIGUSR2 as well, which submitit lets Slurm send before a job's time is over.
    """
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this step, and saving ...", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda at: False
        return
    former = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield lambda at: bool(received)
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
