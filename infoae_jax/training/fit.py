"""`fit`: a training from its configuration to its end, in a run folder."""

import contextlib
import dataclasses
import functools
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from infoae_jax.config import Config, to_dict
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.devices.mesh import AXIS, is_cpu
from infoae_jax.errors import UserError
from infoae_jax.models.autoencoder import InfoAutoencoder, build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, lock, open_run
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import environment, now
from infoae_jax.training.phases import PHASES
from infoae_jax.training.run import Phase, Run
from infoae_jax.training.state import TrainState, init_state
from infoae_jax.training.stepper import JIT_CACHE_SIZE, make_later_stepper, make_stepper


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of `fit`."""

    state: TrainState
    finished: bool  # all phases are done; False: stopped by a signal, and saved
    stopped: bool = False  # a signal came, if only after the last step


def fit(config: Config, workdir: str | Path, devices: Sequence[jax.Device] | None = None) -> Result:
    """Trains as `config` says in the run folder `workdir`, or resumes the run there.

    SIGINT and SIGTERM (in the main thread) finish the step (or `steps_per_call` of them; with several processes: up to
    the next multiple of `log.every_steps`), save, and return. A second SIGINT interrupts at once.

    Args:
      workdir: a new or empty folder, or the run folder of the same configuration.
      devices: they share each batch. None: all, also those of other processes that `hosts.connect` joined; these have
        to call `fit` too, and the first of them alone reads and writes `workdir`.

    Raises:
      UserError: if something about the input, the folder or the devices cannot work.
      DivergedError: if a loss leaves the range of useful numbers; the last sound checkpoint stays.
    """
    folder, is_alone = Path(workdir), jax.process_count() == 1
    if devices is None:
        devices = jax.local_devices() if is_alone else jax.devices()
    if config.train.batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of the {len(devices)} "
            f"devices that share it."
        )
    # An Auto mesh, not the Explicit one that jax.make_mesh gives: sharding is no part of the types here.
    mesh = Mesh(np.array(devices), (AXIS,))
    local_mesh = mesh if is_alone else Mesh(np.array(jax.local_devices()), (AXIS,))
    with contextlib.ExitStack() as stack:
        hosts.check_same("settings", repr({**to_dict(config), "data": None}))  # where the images are may differ
        hosts.on_first(lambda: stack.enter_context(lock(folder)))
        splits = load_splits(config.data)
        hosts.check_same("images", splits.fingerprint)
        stopped = stack.enter_context(stop_signals())
        every, device = config.log.every_steps, f"{len(devices)} x {devices[0].device_kind}"

        def should_stop(step: int) -> bool:
            # All processes ask at the same steps, as they have to stop at the same one.
            return stopped() if is_alone else step % every == 0 and hosts.any_of(stopped())

        run = Run(config, folder, splits, build_model(config, splits), device, mesh, local_mesh, should_stop)
        return dataclasses.replace(_take_all_steps(run), stopped=stopped())


def build_model(config: Config, splits: Splits) -> InfoAutoencoder:
    """The model for these images; `UserError` if the configuration does not suit them."""
    count, train = len(splits.train), config.train
    if train.batch_size > count:
        raise UserError(
            f"config.train.batch_size is {train.batch_size}, but the training split has only {count} images. Lower it."
        )
    if (total_steps := count // train.batch_size * train.epochs) >= 2**31:
        raise UserError(
            f"config.train.epochs is {train.epochs}, which makes {total_steps} steps, but at most {2**31 - 1} are "
            f"possible. Lower it."
        )
    height, width, channels = splits.train.images.shape[1:]
    return build(config.model, (height, width, channels), len(splits.train.class_names), train.dtype)


def train(run: Run) -> Phase[Result]:
    """Opens the folder of a run, which must be locked, and goes through all phases from its newest checkpoint on.

    Raises `UserError` if the folder holds another experiment or cannot be written; `DivergedError` as `fit` does.
    """
    try:
        with contextlib.ExitStack() as files:
            _open_folder(run, files)
            state, finished = restore_state(run), True
            # The line alone proves nothing: it may be there although the last checkpoint never reached the disk.
            has_end = hosts.from_first(lambda: bool(read_metrics(run.folder, "end")), False)
            if has_end and int(state.step) == run.steps[-1]:
                return Result(state, True)
            _log_start(run, state)
            for phase, last in zip(PHASES, run.steps, strict=True):
                if finished and int(state.step) < last:
                    state, finished = yield from phase(run, state)
            if hosts.is_first():
                append_metrics(run.folder, "end" if finished else "stop", step=int(state.step), time=now())
            return Result(state, finished)
    except OSError as error:
        raise UserError(
            f"The run folder {str(run.folder)!r} could not be written ({error}). Its last checkpoint is intact: make "
            f"room, and run the same command to resume."
        ) from error


def _open_folder(run: Run, files: contextlib.ExitStack) -> None:
    config, splits, names = run.config, run.splits, run.splits.train.class_names
    info = RunInfo(config, run.model.image_shape, names, len(splits.train), len(splits.test), splits.fingerprint)
    hosts.on_first(lambda: open_run(run.folder, info, run.device))
    if hosts.is_first():
        run.checkpoints = files.enter_context(Checkpoints(run.folder, config.checkpoint.keep, wait=is_cpu()))
        if config.log.tensorboard:
            run.tensorboard = files.enter_context(_tensorboard(run.folder))


@functools.lru_cache(JIT_CACHE_SIZE)
def _init_program(model: InfoAutoencoder, sharding: NamedSharding) -> Any:
    return jax.jit(functools.partial(init_state, model), out_shardings=sharding)


def restore_state(run: Run) -> TrainState:
    """The state of the newest checkpoint, or a fresh one, on all devices."""
    init, seed = _init_program(run.model, run.replicated), np.uint32(run.config.train.seed)
    shapes = init.eval_shape(seed)
    # With several processes the first one reads for all.
    sharding = run.replicated if jax.process_count() == 1 else SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
    nothing = -1, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def read() -> tuple[int, Any]:
        assert run.checkpoints is not None
        return run.checkpoints.restore(abstract) or nothing

    step, state = hosts.from_first(read, nothing)
    return init(seed) if step < 0 else hosts.put(state, run.replicated)


def _log_start(run: Run, state: TrainState) -> None:
    if not hosts.is_first():
        return
    step, splits, before = int(state.step), run.splits, [line["device"] for line in read_metrics(run.folder, "start")]
    if step and before[-1:] not in ([], [run.device]):
        warnings.warn(
            f"This run was on {before[-1]} and is resumed on {run.device}, so its result will not be the same bit for "
            f"bit (--cpu_devices sets the number of CPU devices).",
            stacklevel=5,
        )
    append_metrics(run.folder, "start", step=step, device=run.device, environment=environment(), time=now())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    run.print(
        f"{run.config.data.name}: {len(splits.train):,} + {len(splits.test):,} images of "
        f"{'x'.join(map(str, run.model.image_shape))}, {run.model.num_classes} classes; {parameters:,} parameters; "
        f"{run.device}; run folder {run.folder}" + (f"; resumed at step {step}" if step else "")
    )


def _take_all_steps(run: Run) -> Result:
    model, config, data, mesh = run.model, run.config, run.splits.train, run.mesh
    current, answer = "", None
    take: Callable[..., tuple[Any, ...]]
    with contextlib.closing(train(run)) as phases:
        while True:
            try:
                kind, _, carry, arguments = phases.send(answer)
            except StopIteration as end:
                return end.value
            if kind != current:
                current = kind
                if kind == "train":
                    take = make_stepper(model, config.train, data.images, data.labels, mesh)
                else:
                    take = make_later_stepper(model, kind, config, mesh)
            answer = take(carry, *arguments)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGINT, SIGTERM, or SIGUSR2 (Slurm's, before time is over) has come."""
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("\nStopping after this step, and saving ...", file=sys.stderr, flush=True)

    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2) if is_main else ()
    former = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter  # an extra, which may be missing
    except ImportError as error:
        raise UserError(
            "config.log.tensorboard is True, but tensorboardX is not installed: pip install -e '.[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
