"""The flags of `launch.py`, and what they ask for: a training, or a sweep (`cli/sweep.py`)."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from infoae_jax.cli.sweep import is_sweep, resume_hint, run_sweep_command
from infoae_jax.config import Config, parse
from infoae_jax.errors import DivergedError, UserError, as_sentence
from infoae_jax.evaluation.record import PROTOCOLS

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, for instance configs/mnist.py:tiny")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default: runs/<name of the configuration>")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU only: number of devices that share each batch; default: one for each core", lower_bound=1
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts: address of the first process as host:port, the same for all; on Slurm: auto"
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: number of processes", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Several hosts: number of this process, from 0", lower_bound=0)
_GPU_TUNING = flags.DEFINE_enum(
    "gpu_tuning", "quick", ["none", "quick", "full"], "GPU only: how long XLA looks for the fastest kernels"
)
_CACHE = flags.DEFINE_boolean("compilation_cache", True, "Keep compiled programs in the user's cache folder")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; exits with a sentence, not a traceback, if that fails."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"Cannot understand {rest[1]!r}; options are written --name=value.")
        if _COORDINATOR.value is None and (_PROCESSES.value is not None or _PROCESS.value is not None):
            raise UserError("--num_processes and --process_id need the first process's --coordinator=host:port.")
        if is_sweep() and _COORDINATOR.value:
            raise UserError("A sweep does not run over several hosts at once; hand it to a cluster: --sweep_cluster.")
        if _CONFIG.value is None:
            raise UserError("Say what to train: --config=configs/mnist.py, svhn.py, rendered.py or folder.py.")
        parse(_CONFIG.value)  # also raises what loading the file raised
        return rest
    except Exception as error:  # a configuration file is the user's code and may raise anything
        sys.exit(print_error(error, argv))


def print_error(error: BaseException, argv: Sequence[str] = ()) -> int:
    """Prints a sentence on what went wrong; returns the exit code, 1 if training diverged and 2 otherwise."""
    print(f"error: {as_sentence(error, argv)}", file=sys.stderr)
    return 1 if isinstance(error, DivergedError) else 2


def main(_: list[str]) -> None:
    """Trains, or runs a sweep, as the flags say."""
    logging.set_verbosity(logging.FATAL)  # errors that Orbax logs are also raised, and become one sentence
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    config = parse(_CONFIG.value)
    path, _colon, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = "-".join(filter(None, (Path(path).stem, variant.replace(",", "-"))))
    workdir = Path(_WORKDIR.value).expanduser() if _WORKDIR.value else Path("runs") / name
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if not is_sweep():
        _train(config, workdir)
    elif not run_sweep_command(config, Path(path), workdir, overrides, _set_up):
        sys.exit(1)


def _set_up(batch_size: int) -> None:
    from infoae_jax.devices.setup import set_up  # here, so that mistakes are answered before JAX is imported

    set_up(batch_size, _CPU_DEVICES.value, _CACHE.value, _GPU_TUNING.value, onednn=True)


def _train(config: Config, workdir: Path) -> None:
    _set_up(config.train.batch_size // (_PROCESSES.value or 1))
    from infoae_jax.devices import hosts  # these import JAX
    from infoae_jax.training.fit import fit

    if _COORDINATOR.value:
        hosts.connect(None if _COORDINATOR.value == "auto" else _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    result, at_end = fit(config, workdir), config.evaluate.at_end
    if not hosts.is_first():
        return
    if not result.finished:
        print(f"Stopped and saved at step {int(result.state.step)}. {resume_hint()}")
        return
    print(f"Finished: {workdir}")
    if at_end != "no" and _COORDINATOR.value:
        print(f"To measure it (the other processes would not wait for that): infoae evaluate {workdir}")
    elif at_end != "no":
        from infoae_jax.evaluation.measure import evaluate_run  # here, since most runs do not need it
        from infoae_jax.evaluation.table import as_text

        print(as_text(evaluate_run(workdir, PROTOCOLS[at_end], data_dir=config.data.dir)))
