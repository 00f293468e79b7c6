"""`fit`: a training from its configuration to its end, in a run folder."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from infoae_jax.config import Config, program_key, to_dict
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.devices.computing import computing
from infoae_jax.devices.mesh import AXIS, is_gpu
from infoae_jax.devices.signals import stop_signals
from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.models.autoencoder import InfoAutoencoder, build
from infoae_jax.runs.folder import lock
from infoae_jax.training.loop import Loop, noting
from infoae_jax.training.run import Run, print_above_bar
from infoae_jax.training.schedule import init_state
from infoae_jax.training.state import TrainState
from infoae_jax.training.stepper import Layout


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of `fit`."""

    state: TrainState
    finished: bool  # all phases are done; False: stopped by a signal, and saved
    stopped: bool = False  # a signal came, if only after the last step


@computing
def fit(config: Config, workdir: str | Path, devices: Sequence[jax.Device] | None = None) -> Result:
    """Trains as `config` says in the run folder `workdir`, or resumes the run there.

    SIGINT and SIGTERM (in the main thread) finish the step (on accelerators and with several processes: all up
    to the next log line), save, and return. A second SIGINT interrupts at once, and so does each while a phase
    begins and compiles, when all is saved: KeyboardInterrupt.

    Args:
      workdir: a new or empty folder, or the run folder of the same configuration.
      devices: they share each batch. None: one GPU; elsewhere all, and also
        those of other processes that `hosts.connect` joined: these have to call `fit` too, and the first of them alone
        reads and writes `workdir`.

    Raises:
      UserError: if something about the input, the folder or the devices cannot work.
      DivergedError: if a loss leaves the range of useful numbers; the last sound checkpoint stays.
    """
    folder, is_alone = user_path(workdir, "workdir"), jax.process_count() == 1
    if devices is None:
        devices = jax.devices() if not is_alone else jax.local_devices()[: 1 if is_gpu() else None]
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
        device = f"{len(devices)} x {devices[0].device_kind}"

        def should_stop(is_shared: bool) -> bool:
            # Several processes have to stop at the same step, so all have to ask.
            return stopped() if is_alone else is_shared and hosts.any_of(stopped())

        run = Run(config, folder, splits, build_model(config, splits), device, local_mesh)
        (outcome,) = train([run], Layout(mesh), should_stop)
        if isinstance(outcome, Exception):
            raise outcome
        return dataclasses.replace(outcome, stopped=stopped())


@computing
def fit_group(
    configs: Sequence[Config], folders: Sequence[str | Path], devices: Sequence[jax.Device] | None = None
) -> list[Result | Exception]:
    """Trains or resumes all of `configs` in their run folders at once; otherwise as `fit.fit`.

    A run has the metrics that it would have alone on one device, but for rounding. A signal stops all runs.

    Args:
      configs: equal in `config.program_key`.
      devices: the runs are divided among them; None: all local ones.

    Returns:
      What `fit` would return or raise for each: a run that diverges or cannot be trained does not stop the others.

    Raises:
      UserError: if the images cannot be loaded, or the configurations do not suit them.
    """
    if len({program_key(config) for config in configs}) != 1:
        raise ValueError("These configurations do not share a program: see config.program_key.")
    mesh = Mesh(np.array(jax.local_devices() if devices is None else devices), (AXIS,))
    one = Mesh(mesh.devices[:1], (AXIS,))  # for what a run computes alone: latents, test metrics, swaps
    device = f"{mesh.size} x {mesh.devices[0].device_kind}, in a group"
    splits = load_splits(configs[0].data)
    model, runs, outcomes = build_model(configs[0], splits), dict[int, Run](), dict[int, Result | Exception]()
    shared: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack, stop_signals() as stopped:
        for number, (config, given) in enumerate(zip(configs, folders, strict=True)):
            try:
                folder = user_path(given, "folder")
                stack.enter_context(lock(folder))
                runs[number] = Run(config, folder, splits, model, device, one, _printer(folder, not runs), shared)
            except Exception as error:  # another process trains it, for instance
                outcomes[number] = error
        found = train(list(runs.values()), Layout(mesh, is_group=True), lambda is_shared: stopped()) if runs else []
        outcomes |= dict(zip(runs, found, strict=True))
        for number, outcome in outcomes.items():
            if isinstance(outcome, Result):
                outcomes[number] = dataclasses.replace(outcome, stopped=stopped())
    return [outcomes[number] for number in range(len(configs))]


def _printer(folder: Path, is_heard: bool) -> Callable[[str], None]:
    return lambda text: print_above_bar(f"{folder.name}: {text}") if is_heard else None


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


def train(runs: Sequence[Run], layout: Layout, should_stop: Callable[[bool], bool]) -> list[Result | Exception]:
    """Trains runs that share their programs, each from its newest checkpoint on.

    Those that stand at the same step take their steps together: all, unless they were killed while they saved.

    Args:
      runs: their folders must be locked.
      should_stop: as for `Loop`.

    Returns:
      For each run its result, or what went wrong with it: the others go on.
    """
    outcomes, states, errors = dict[int, Result](), dict[int, TrainState](), dict[int, Exception]()
    with contextlib.ExitStack() as stack:
        for number, run in enumerate(runs):
            stack.enter_context(run.files)
            with noting(errors, number, run):
                run.open()
                states[number] = run.restore(init_state(run.model, run.config))
        for step in sorted({int(state.step) for state in states.values()}):
            numbers = [number for number, state in states.items() if state.step == step]
            group = Loop([runs[n] for n in numbers], [states[n] for n in numbers], layout, should_stop)
            group.train()
            errors |= {numbers[i]: error for i, error in group.errors.items()}
            outcomes |= {n: Result(group.states[i], not group.is_stopped) for i, n in enumerate(numbers)}
        for number, run in enumerate(runs):
            with noting(errors, number, run):
                run.files.close()  # when the last checkpoint is on the disk
    return [errors.get(number) or outcomes[number] for number in range(len(runs))]
