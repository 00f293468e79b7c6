"""`launch.py` and `infoae train`: their flags, and what these ask for, a training or a sweep (`cli/sweep.py`)."""

import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

import infoae_jax
from infoae_jax.cli import sweep
from infoae_jax.cli.program import IMPOSSIBLE, run_program
from infoae_jax.cli.sweep import is_sweep, resume_hint, run_sweep_command
from infoae_jax.config import Config, parse
from infoae_jax.errors import UserError, as_sentence
from infoae_jax.evaluation.record import PROTOCOLS
from infoae_jax.files import user_path

MAX_PROCESSES = 100_000
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration: mnist:tiny, or its file: configs/mnist.py:tiny"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default: runs/<name of the configuration>")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU only: number of devices that share each batch; default: one per core", lower_bound=1
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts: address of the first process, host:port, the same for all; on Slurm: auto"
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Several hosts: number of processes", lower_bound=1, upper_bound=MAX_PROCESSES
)
_PROCESS = flags.DEFINE_integer(
    "process_id", None, "Several hosts: number of this process, from 0", lower_bound=0, upper_bound=MAX_PROCESSES - 1
)
_GPU_TUNING = flags.DEFINE_enum(
    "gpu_tuning", "quick", ["none", "quick", "full"], "GPU only: how long XLA searches for the fastest kernels"
)
_CACHE = flags.DEFINE_boolean("compilation_cache", True, "Keep compiled programs in the user's cache folder")


def launch() -> int:
    """Does what `sys.argv` asks for; returns the exit code."""
    for module in (__name__, sweep.__name__):  # so that --help shows them
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    interrupted = "Interrupted. What was saved before is intact; the same command resumes."
    return run_program(_launch, (0, interrupted))


def _launch() -> int:
    try:
        app.run(_main, flags_parser=_parse_flags)
    except SystemExit as stop:  # which absl ends with
        return stop.code if isinstance(stop.code, int) else IMPOSSIBLE if stop.code else 0
    return 0


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; raises `UserError` if that fails."""
    argv, path = _find_config(argv)
    nothing = f"The function get_config() of {path!r} returns nothing."
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"Cannot understand {rest[1]!r}; options are written --name=value.")
        if _COORDINATOR.value is None and (_PROCESSES.value is not None or _PROCESS.value is not None):
            raise UserError("--num_processes and --process_id need the first process's --coordinator=host:port.")
        if _PROCESSES.value is not None and _PROCESS.value is not None and _PROCESS.value >= _PROCESSES.value:
            raise UserError(
                f"--process_id is {_PROCESS.value}, but must be below --num_processes, which is {_PROCESSES.value}."
            )
        if is_sweep() and _COORDINATOR.value:
            raise UserError("A sweep does not run over several hosts at once; hand it to a cluster: --sweep_cluster.")
        if _CONFIG.value is None and path:
            raise UserError(nothing)
        if _CONFIG.value is None:
            raise UserError("Say what to train: --config=mnist, svhn, rendered or folder, or a file of your own.")
        parse(_CONFIG.value)  # also raises what loading the file raised
        return rest
    except SystemExit as stop:
        if any(re.match("--?(help|h$|[?]$)", word) for word in argv):  # absl ends with 1
            sys.exit(0)
        raise UserError(f"{path!r} ends the program ({stop.code}).") from stop
    except UserError:
        raise
    except Exception as error:  # a configuration file is the user's code and may raise anything
        lines = re.findall(rf'File "{re.escape(path)}", line (\d+)', "".join(traceback.format_exception(error)))
        if "<class 'NoneType'>" in str(error):  # has no settings to override
            raise UserError(nothing) from error
        if lines or "get_config" in str(error):
            where = f", line {lines[-1]}" if lines else ""
            raise UserError(f"{path}{where}: {as_sentence(error)}") from error
        raise UserError(as_sentence(error, _culprit(argv))) from error


def _find_config(argv: Sequence[str]) -> tuple[list[str], str]:
    """The command line with a path for the name of a configuration that comes with the package; and this path."""
    words, path = list(argv), ""
    for i, word in enumerate(words):
        if word in ("--config", "-config") and words[i + 1 :]:
            words[i : i + 2] = [f"--config={words[i + 1]}"]
        if re.match("--?config=", words[i]):
            path, colon, variant = words[i].partition("=")[2].partition(":")
            ours = _config_folder() / f"{path}.py"
            path = str(ours) if path.isidentifier() and ours.exists() and not Path(path).is_file() else path
            words[i] = f"--config={path}{colon}{variant}"
    return words, path


def _config_folder() -> Path:
    """Where the configurations are: in a wheel within the package, in a clone beside it."""
    package = Path(infoae_jax.__file__).parent
    if not (package / "configs").exists():
        return package.parent / "configs"
    sys.modules.setdefault("configs", importlib.import_module("infoae_jax.configs"))  # as which they import each other
    return package / "configs"


def _culprit(argv: Sequence[str]) -> str:
    """The setting on the command line that cannot be read, even alone."""
    start = [word for word in argv if word.startswith("--config=")][:1]
    for word in argv:
        if word.startswith("--config.") and start:
            words, values = [argv[0], *start, word], flags.FlagValues()
            try:
                config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
                values(words)
            except Exception:  # which is what was asked
                return word
    return ""


def _main(_: list[str]) -> int:
    """Trains, or runs a sweep, as the flags say."""
    config = parse(_CONFIG.value)
    path, _colon, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = "-".join(filter(None, (Path(path).stem, variant.replace(",", "-"))))
    workdir = Path("runs") / name if _WORKDIR.value is None else user_path(_WORKDIR.value, "--workdir")
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if is_sweep():
        return 0 if run_sweep_command(config, Path(path), workdir, overrides, _set_up) else 1
    _train(config, workdir)
    return 0


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

        protocol = PROTOCOLS[at_end]
        evaluate_run(workdir, protocol, data_dir=config.data.dir, show=lambda record: print(as_text(record)))
