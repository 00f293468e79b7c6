"""`fit`: a training from its configuration to its end, in a run folder."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from infoae_jax.config import Config, program_key, to_dict
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.devices.computing import computing
from infoae_jax.devices.mesh import data_mesh, is_gpu
from infoae_jax.devices.signals import stop_signals
from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.images.pixels import pixel_statistics
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
    begins, when all is saved: KeyboardInterrupt.

    Args:
      workdir: a new or empty folder, or the run folder of the same configuration.
      devices: they share each batch. None: one GPU; elsewhere all, and also those of other processes that
        `hosts.connect` joined: these have to call `fit` too, and the first of them alone reads and writes `workdir`.

    Raises:
      UserError: if something about the input, the folder or the devices cannot work.
      DivergedError: if a loss leaves the range of useful numbers; the last sound checkpoint stays.
    """
    if devices is None:
        devices = jax.devices() if jax.process_count() > 1 else jax.local_devices()[: 1 if is_gpu() else None]
    if config.train.batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of the {len(devices)} "
            f"devices that share it."
        )
    (outcome,) = _fit([config], [workdir], devices, is_group=False)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


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
    return _fit(configs, folders, jax.local_devices() if devices is None else devices, is_group=True)


def _fit(
    configs: Sequence[Config], folders: Sequence[str | Path], devices: Sequence[jax.Device], is_group: bool
) -> list[Result | Exception]:
    """What became of each run, trained from its newest checkpoint on; what goes wrong with one leaves the others.

    Those that stand at the same step take their steps together: all, unless they were killed while they saved.
    """
    is_alone, paths = jax.process_count() == 1, [user_path(folder, "workdir") for folder in folders]
    layout = Layout(data_mesh(devices), is_group)
    # What a run computes alone (latents, test metrics, swaps), the devices of this host share; in a group, one does it.
    local = data_mesh(devices[:1] if is_group else devices if is_alone else None)
    device = f"{len(devices)} x {devices[0].device_kind}{', in a group' if is_group else ''}"
    runs, results, errors = dict[int, Run](), dict[int, Result](), dict[int, Exception]()
    with contextlib.ExitStack() as stack:
        hosts.check_same("settings", repr({**to_dict(configs[0]), "data": None}))  # where the images are may differ
        for number, folder in enumerate(paths):
            with noting(errors, number, folder):
                hosts.on_first(functools.partial(stack.enter_context, lock(folder)))
        if len(errors) == len(paths):
            return list(errors.values())
        splits = load_splits(configs[0].data)
        hosts.check_same("images", splits.fingerprint)
        stopped = stack.enter_context(stop_signals())
        model, shared = build_model(configs[0], splits), dict[str, np.ndarray]()
        statistics = pixel_statistics(splits.train.images) if configs[0].train.standardise else {}
        states = dict[int, TrainState]()
        for number, (config, folder) in enumerate(zip(configs, paths, strict=True)):
            if number not in errors:
                say = _printer(folder, not runs) if is_group else print_above_bar
                run = runs[number] = Run(config, folder, splits, model, device, local, say, shared)
                stack.enter_context(run.files)
                with noting(errors, number, folder):
                    states[number] = run.open(init_state(model, config, statistics))

        def should_stop(is_shared: bool) -> bool:
            # Several processes have to stop at the same step, so all have to ask.
            return stopped() if is_alone else is_shared and hosts.any_of(stopped())

        for step in sorted({int(state.step) for state in states.values()}):
            numbers = [number for number, state in states.items() if state.step == step]
            loop = Loop([runs[n] for n in numbers], [states[n] for n in numbers], layout, should_stop)
            loop.train()
            errors |= {numbers[i]: error for i, error in loop.errors.items()}
            results |= {n: Result(loop.states[i], not loop.is_stopped) for i, n in enumerate(numbers)}
        for number, run in runs.items():
            with noting(errors, number, run.folder):
                run.files.close()  # when the last checkpoint is on the disk
    return [errors.get(n) or dataclasses.replace(results[n], stopped=stopped()) for n in range(len(paths))]


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
