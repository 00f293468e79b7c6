"""`launch.py --sweep`: the options of a sweep, and what they ask for: a listing, tasks for a cluster, or the runs."""

import importlib.util
import math
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import flags

from infoae_jax.config import Config
from infoae_jax.errors import UserError
from infoae_jax.sweeps import cluster
from infoae_jax.sweeps.trials import Trial, filter_trials, group_trials, list_trials, select_trials, short_name

_SWEEP = flags.DEFINE_boolean("sweep", False, "Run the trials that sweep(add) of the configuration file lists")
_LIST = flags.DEFINE_boolean(
    "sweep_list", False, "Only say which trials there are, how far, how long they take and how much memory"
)
_FILTER = flags.DEFINE_string(
    "sweep_filter", "", "Only the trials for which all of this holds: bottleneck=16|32,lambda_adv<=0.01,seed=0"
)
_ONLY = flags.DEFINE_multi_string("sweep_only", [], "Only the trial of this name; can be given several times")
_CLUSTER = flags.DEFINE_enum(
    "sweep_cluster", "", ["", *cluster.CLUSTERS], "Hand each group of the trials to this cluster, by submitit"
)
_OPTIONS = flags.DEFINE_string(
    "sweep_cluster_options", "", "For submitit: slurm_partition=gpu,gpus_per_node=1,timeout_min=240"
)


def sweep_requested() -> bool:
    """Whether the command line asks for a sweep.

    Raises:
      UserError: if it does not, but says how.
    """
    asked = bool(_SWEEP.value or _LIST.value)
    for flag in (_FILTER, _ONLY, _CLUSTER, _OPTIONS):
        if flag.value and not asked:
            raise UserError(f"--{flag.name} is of a sweep: add --sweep to run it, or --sweep_list to see its trials.")
    return asked


def run_sweep_command(
    config: Config, path: Path, workdir: Path, overrides: Iterable[str], set_up: Callable[[int], None]
) -> bool:
    """Does what is asked for; whether all went well.

    Args:
      path: the configuration file. overrides: fields of `config` that the command line sets.
      set_up: prepares JAX for batches of this size, or of multiples of it.
    """
    trials = filter_trials(_trials(config, path, workdir / "sweep", overrides), _FILTER.value)
    trials = select_trials(trials, _ONLY.value) if _ONLY.value else trials
    ends = {_protocol(trial): trial.config.evaluate.at_end for trial in trials}
    if len(ends) > 1:
        raise UserError(
            f"The sweep sets evaluate.at_end to {' and '.join(map(repr, ends.values()))}, but only trials that are "
            f"measured alike can be compared. Choose one for all: --config.evaluate.at_end=full"
        )
    from infoae_jax.sweeps.results import (  # here, so that mistakes are answered before JAX is imported
        check_folders,
        list_states,
    )

    check_folders(trials)
    if _LIST.value:
        print(list_states(trials), _memory(trials), sep="\n")
        return True
    if _CLUSTER.value:
        return _submit(trials)
    set_up(math.gcd(*(trial.config.train.batch_size for trial in trials)))
    return _run(trials)


def resume_hint() -> str:
    """How to go on, as a sentence."""
    return f"To go on: python {shlex.join(sys.argv)}"


def _protocol(trial: Trial) -> str:
    return "quick" if trial.config.evaluate.at_end == "no" else trial.config.evaluate.at_end


def _trials(config: Config, path: Path, folder: Path, overrides: Iterable[str]) -> list[Trial]:
    """What the configuration file's sweep(add) lists."""
    trials = list_trials(config, _sweep_of(path), folder)
    swept = {field for trial in trials for field in trial.values}
    for field in overrides:
        if field in swept:
            raise UserError(
                f"--config.{field} is given, but the sweep sets it in its trials. Choose among these with "
                f"--sweep_filter={short_name(field)}=..., or change sweep(add) in {str(path)!r}."
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


def _run(trials: list[Trial]) -> bool:
    from infoae_jax.evaluation.record import PROTOCOLS
    from infoae_jax.reports.sweep import write_sweep_report
    from infoae_jax.sweeps.results import FAILURE_FILE, read_trials
    from infoae_jax.sweeps.runner import run_sweep

    report = run_sweep(trials, PROTOCOLS[_protocol(trials[0])])
    folder = trials[0].folder.parent
    if report.stopped:
        print(f"Stopped, everything is saved. {resume_hint()}")
    if report.busy:
        print(f"Left to other processes: {', '.join(report.busy)}. The same command again does what these leave.")
    if report.failed:
        names = "".join(f"\n  {name}" for name in report.failed)
        print(f"{len(report.failed)} of {len(trials)} trials failed; why is in their {FAILURE_FILE}:{names}")
    if any(line.compared for line in read_trials(folder)):
        print(write_sweep_report(folder))
    return not report.failed


def _memory(trials: list[Trial]) -> str:
    """What an accelerator needs for each group, as far as the images need not be decoded or downloaded for it."""
    import jax

    from infoae_jax.data.load import is_cached
    from infoae_jax.training.group import memory_estimate

    jax.config.update("jax_platforms", "cpu")  # nothing is computed: leave the accelerators to those who train
    lines = []
    for number, group in enumerate(group_trials(trials), 1):
        if is_cached(group[0].config.data):
            size = f"about {memory_estimate([trial.config for trial in group]) / 2**30:.2f} GiB (half to twice that)"
            lines.append(f"group {number}: {size} to train it at once on one accelerator")
    return (
        "\n".join(lines) or "How much memory the groups need is said once a training has put the images in the cache."
    )


def _submit(trials: list[Trial]) -> bool:
    """A task for each group of trials that are not done."""
    from infoae_jax.sweeps.results import read_trial

    left = [trial for trial in trials if read_trial(trial.folder).state not in ("finished", "diverged")]
    if not left:
        print("Nothing is left to do.")
        return True
    commands = [
        [sys.executable, *sys.argv, "--sweep_cluster=", *(f"--sweep_only={trial.name}" for trial in group)]
        for group in group_trials(left)
    ]
    logs = trials[0].folder.parent / "cluster"
    jobs = cluster.submit(commands, logs, _CLUSTER.value, _OPTIONS.value)
    print(f"{len(jobs)} tasks with {len(left)} trials: {', '.join(job.job_id for job in jobs)}; what they say: {logs}")
    if _CLUSTER.value == "local":
        wrong = cluster.wait(jobs)
        print("\n".join(wrong) if wrong else "All are done.")
        return not wrong
    print("How far they are: the same command with --sweep_list. What is left later: the same command again.")
    return True
