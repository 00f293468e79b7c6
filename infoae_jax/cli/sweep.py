"""`launch.py --sweep`: the flags of a sweep, and what they ask for: a listing, tasks for a cluster, or the runs."""

import math
import runpy
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import flags

from infoae_jax.config import Config
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import PROTOCOLS, Protocol
from infoae_jax.sweeps import cluster
from infoae_jax.sweeps.results import FAILURE_FILE, check_folders, list_states, read_trial, read_trials
from infoae_jax.sweeps.trials import Trial, filter_trials, group_trials, list_trials, select_trials, short_name

_SWEEP = flags.DEFINE_boolean("sweep", False, "Run the trials that sweep(add) in the configuration file lists")
_LIST = flags.DEFINE_boolean("sweep_list", False, "Only list the trials, with states and time left")
_FILTER = flags.DEFINE_string(
    "sweep_filter", "", "Only the trials that meet all of these: bottleneck=16|32,lambda_adv<=0.01,seed=0"
)
_ONLY = flags.DEFINE_multi_string("sweep_only", [], "Only the trial of this name")
_CLUSTER = flags.DEFINE_enum("sweep_cluster", "", ["", *cluster.CLUSTERS], "Submit the trials to this cluster")
_OPTIONS = flags.DEFINE_string("sweep_cluster_options", "", "For submitit, such as slurm_partition=gpu,timeout_min=240")


def is_sweep() -> bool:
    """Whether the command line asks for a sweep; raises `UserError` if not, but a flag is set that only sweeps use."""
    if _SWEEP.value or _LIST.value:
        return True
    for flag in (_FILTER, _ONLY, _CLUSTER, _OPTIONS):
        if flag.value:
            raise UserError(f"--{flag.name} is for sweeps: add --sweep to run one, or --sweep_list to see its trials.")
    return False


def run_sweep_command(
    config: Config, path: Path, workdir: Path, overrides: Iterable[str], set_up: Callable[[int], None]
) -> bool:
    """Lists the trials, hands them to a cluster, or runs them; returns whether none failed.

    Args:
      path: the configuration file.
      workdir: the folder whose subfolder `sweep` holds the trials.
      overrides: fields of `config` that the command line sets.
      set_up: prepares JAX for batches of this size, or of multiples of it.

    Raises:
      UserError: if the flags, the configuration's sweep(add) or the folders do not permit it.
    """
    sweep = runpy.run_path(str(path)).get("sweep")
    if sweep is None:
        raise UserError(f"{str(path)!r} has no function sweep(add), which lists the trials of --sweep.")
    trials = list_trials(config, sweep, workdir / "sweep")
    if fields := [field for field in overrides if any(field in trial.values for trial in trials)]:
        raise UserError(
            f"--config.{fields[0]} is given, but the sweep sets it in its trials. Choose some of these with "
            f"--sweep_filter={short_name(fields[0])}=..., or change sweep(add) in {str(path)!r}."
        )
    trials = filter_trials(trials, _FILTER.value)
    trials = select_trials(trials, _ONLY.value) if _ONLY.value else trials
    ends = dict.fromkeys(trial.config.evaluate.at_end for trial in trials)
    protocols = {"quick" if end == "no" else end for end in ends}  # a sweep always compares its trials
    if len(protocols) > 1:
        raise UserError(
            f"The sweep sets evaluate.at_end to {' and '.join(map(repr, ends))}, but only trials that are measured by "
            f"one protocol can be compared. Choose one for all: --config.evaluate.at_end=full"
        )
    check_folders(trials)
    if _LIST.value:
        print(list_states(trials))
        return True
    if _CLUSTER.value:
        return _submit(trials)
    set_up(math.gcd(*(trial.config.train.batch_size for trial in trials)))
    return _run(trials, PROTOCOLS[protocols.pop()])


def resume_hint() -> str:
    """How to resume, as a sentence."""
    return f"To resume: python {shlex.join([*_program(), *sys.argv[1:]])}"


def _program() -> list[str]:
    """What runs this command again, after the name of the interpreter: `launch.py`, or `infoae train`."""
    return [sys.argv[0]] if sys.argv[0].endswith(".py") else ["-m", "infoae_jax", "train"]


def _run(trials: list[Trial], protocol: Protocol) -> bool:
    from infoae_jax.reports.sweep import write_sweep_report  # here, so that mistakes are answered before the slow
    from infoae_jax.sweeps.runner import run_sweep  # imports of JAX and Matplotlib

    outcome, folder = run_sweep(trials, protocol), trials[0].folder.parent
    if outcome.failed:
        names = "".join(f"\n  {name}" for name in outcome.failed)
        print(f"{len(outcome.failed)} of {len(trials)} trials failed; {FAILURE_FILE} in their folders says why:{names}")
    if any(trial.is_comparable for trial in read_trials(folder)):
        print(write_sweep_report(folder))
    if outcome.busy:
        print(f"Other processes train {', '.join(outcome.busy)}. Run the same command later for what is left.")
    if outcome.stopped:
        print(f"Stopped; everything is saved. {resume_hint()}")
    return not outcome.failed


def _submit(trials: list[Trial]) -> bool:
    """Submits a task for each group of trials that are not done."""
    left = [trial for trial in trials if read_trial(trial.folder).state not in ("finished", "diverged")]
    if not left:
        print("Nothing is left to do.")
        return True
    again = [sys.executable, *_program(), *sys.argv[1:]]
    commands = [
        [*again, "--sweep_cluster=", *(f"--sweep_only={trial.name}" for trial in group)] for group in group_trials(left)
    ]
    logs = trials[0].folder.parent / "cluster"
    jobs = cluster.submit(commands, logs, _CLUSTER.value, _OPTIONS.value)
    print(f"{len(jobs)} tasks with {len(left)} trials: {', '.join(job.job_id for job in jobs)}; messages: {logs}")
    if _CLUSTER.value == "local":
        failures = cluster.wait(jobs)
        print("\n".join(failures) or "All are done.")
        return not failures
    print("The same command with --sweep_list shows how far they are; the same command again submits what is left.")
    return True
