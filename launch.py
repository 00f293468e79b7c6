"""Trains an Info-autoencoder: python launch.py --config=configs/mnist.py [--config.FIELD=VALUE ...]

With --sweep: what the configuration's sweep(add) lists, one run after the other, and a page about all.

Exit codes: 0 done, or stopped by a signal and ready to resume; 1 training diverged, or some trial of a sweep failed;
2 the input cannot work.
"""

import importlib.util
import math
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from infoae_jax import plan
from infoae_jax.config import Config, parse
from infoae_jax.errors import DivergedError, UserError, as_sentence

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, for instance configs/mnist.py:tiny")
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default: runs/<name of the configuration>")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", None, "CPU only: how many devices share each batch; default: one for each core", lower_bound=1
)
_SWEEP = flags.DEFINE_boolean("sweep", False, "Run the trials that sweep(add) of the configuration file lists")
_FILTER = flags.DEFINE_string(
    "sweep_filter", "", "Only the trials for which all of this holds: bottleneck=16|32,lambda_adv<=0.01,seed=0"
)
_LIST = flags.DEFINE_boolean("sweep_list", False, "Only say which trials there are, how far, and how long they take")
_MEMORY = flags.DEFINE_boolean(
    "sweep_memory", False, "As --sweep_list, and how much memory an accelerator needs for each group (reads the images)"
)
_CLUSTER = flags.DEFINE_enum(
    "sweep_cluster", "", ["", "slurm", "local"], "Hand each group of the trials to this cluster, by submitit"
)
_CLUSTER_OPTIONS = flags.DEFINE_string(
    "sweep_cluster_options", "", "For submitit: slurm_partition=gpu,gpus_per_node=1,timeout_min=240"
)
_ONLY = flags.DEFINE_multi_string("sweep_only", [], "Only the trial of this name; can be given several times")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts: address of the first process, host:port, the same for all; on Slurm: auto"
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: how many processes", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", None, "Several hosts: which of them this is, from 0", lower_bound=0)
_CACHE = flags.DEFINE_boolean("compilation_cache", True, "Keep compiled programs in the user's cache folder")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error is also raised, and said in one sentence below
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    config = parse(_CONFIG.value)
    path, _colon, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    workdir = (
        Path(_WORKDIR.value).expanduser()
        if _WORKDIR.value
        else Path("runs") / "-".join(filter(None, (Path(path).stem, variant.replace(",", "-"))))
    )
    if _SWEEP.value or _LIST.value or _FILTER.value or _ONLY.value or _MEMORY.value:
        trials = plan.chosen(_trials(config, Path(path), workdir / "sweep"), _FILTER.value)
        _sweep(plan.named(trials, _ONLY.value) if _ONLY.value else trials)
        return

    from infoae_jax import hosts  # here, so that mistakes are answered before JAX is imported
    from infoae_jax.process import set_up
    from infoae_jax.train import fit

    set_up(config.train.batch_size // (_PROCESSES.value or 1), _CPU_DEVICES.value, _CACHE.value)
    if _COORDINATOR.value:
        hosts.connect(None if _COORDINATOR.value == "auto" else _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    result = fit(config, workdir)
    if not hosts.is_first():
        return
    print(
        f"Finished: {workdir}" if result.finished else f"Stopped and saved at step {int(result.state.step)}. {_again()}"
    )
    if result.finished and config.evaluate.at_end != "no" and _COORDINATOR.value:
        print(f"To measure it (the other processes would not wait for it): infoae evaluate {workdir}")
    elif result.finished and config.evaluate.at_end != "no":
        from infoae_jax import evaluate, table

        print(
            table.as_text(
                evaluate.evaluate(workdir, evaluate.PROTOCOLS[config.evaluate.at_end], data_dir=config.data.dir)
            )
        )


def _again() -> str:
    return f"To go on: python {shlex.join(sys.argv)}"


def _trials(config: Config, path: Path, folder: Path) -> list[plan.Trial]:
    """What the configuration file's sweep(add) lists."""
    trials = plan.trials(config, _sweep_of(path), folder)
    swept = {field for trial in trials for field in trial.values}
    for field in config_flags.get_override_values(flags.FLAGS["config"]):
        if field in swept:
            raise UserError(
                f"--config.{field} is given, but the sweep sets it in its trials. Choose among these with "
                f"--sweep_filter={plan.short(field)}=..., or change sweep(add) in {str(path)!r}."
            )
    return trials


def _sweep_of(path: Path) -> Callable[[Callable[..., None]], None]:
    spec = importlib.util.spec_from_file_location("sweep_config", path)
    assert spec is not None  # the same file was loaded as a configuration
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise UserError(f"{str(path)!r} has no function sweep(add), which lists the trials of --sweep.")
    return module.sweep


def _sweep(trials: list[plan.Trial]) -> None:
    from infoae_jax import summary

    summary.check(trials)
    if _LIST.value or _MEMORY.value:
        print(summary.listing(trials))
        if _MEMORY.value:
            _say_memory(trials)
        return
    if _CLUSTER.value:
        _submit(trials)
        return

    from infoae_jax import evaluate, sweep, sweep_report
    from infoae_jax.process import set_up

    set_up(math.gcd(*(trial.config.train.batch_size for trial in trials)), _CPU_DEVICES.value, _CACHE.value)
    at_end = trials[0].config.evaluate.at_end
    report = sweep.run(trials, evaluate.PROTOCOLS["quick" if at_end == "no" else at_end])
    folder = trials[0].folder.parent
    if report.stopped:
        print(f"Stopped, everything is saved. {_again()}")
    if report.busy:
        print(f"Left to other processes: {', '.join(report.busy)}. The same command again does what these leave.")
    if report.failed:
        names = "".join(f"\n  {name}" for name in report.failed)
        print(f"{len(report.failed)} of {len(trials)} trials failed; why is in their {summary.FAILED}:{names}")
    if any(line.compared for line in summary.summarise(folder)):
        print(sweep_report.write(folder))
    if report.failed:
        sys.exit(1)


def _say_memory(trials: list[plan.Trial]) -> None:
    from infoae_jax import together

    for number, group in enumerate(plan.groups(trials), 1):
        size = together.memory_estimate(group)
        print(
            f"group {number}: about {size / 2**30:.2f} GiB (half to twice that) to train it at once on one accelerator"
        )


def _submit(trials: list[plan.Trial]) -> None:
    """A task for each group of trials that are not done."""
    from infoae_jax import cluster, summary

    left = [trial for trial in trials if summary.read(trial.folder).state not in ("finished", "diverged")]
    if not left:
        print("Nothing is left to do.")
        return
    commands = [
        [sys.executable, *sys.argv, "--sweep_cluster=", *(f"--sweep_only={trial.name}" for trial in group)]
        for group in plan.groups(left)
    ]
    logs = trials[0].folder.parent / "cluster"
    jobs = cluster.submit(commands, logs, _CLUSTER.value, _CLUSTER_OPTIONS.value)
    print(f"{len(jobs)} tasks with {len(left)} trials: {', '.join(job.job_id for job in jobs)}; what they say: {logs}")
    if _CLUSTER.value == "local":
        wrong = cluster.wait(jobs)
        print("\n".join(wrong) if wrong else "All are done.")
        sys.exit(1 if wrong else 0)
    print("How far they are: the same command with --sweep_list. What is left later: the same command again.")


def _flags(argv: list[str]) -> list[str]:
    """Parses the command line; what cannot be parsed is answered with a sentence, not a traceback."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"Do not know what to do with {rest[1]!r}; options are written --name=value.")
        if _COORDINATOR.value is None and (_PROCESSES.value is not None or _PROCESS.value is not None):
            raise UserError("--num_processes and --process_id need --coordinator=host:port, the first one's address.")
        if _COORDINATOR.value and _SWEEP.value:
            raise UserError("A sweep does not run over several hosts at once; hand it to a cluster: --sweep_cluster.")
        if _CONFIG.value is None:
            raise UserError("Say what to train: --config=configs/mnist.py, svhn.py, rendered.py or folder.py.")
        parse(_CONFIG.value)  # also raises what loading the file raised
        return rest
    except Exception as error:  # a configuration file is the user's code and may raise anything
        sys.exit(_say(error, argv))


def _say(error: BaseException, argv: Sequence[str] = ()) -> int:
    print(f"error: {as_sentence(error, argv)}", file=sys.stderr)
    return 1 if isinstance(error, DivergedError) else 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until training begins, which handles both itself
    try:
        app.run(main, flags_parser=_flags)
    except (UserError, DivergedError) as error:
        sys.exit(_say(error))
    except KeyboardInterrupt:
        print("Interrupted. What was saved before is intact, and the same command goes on.")
