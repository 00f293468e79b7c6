"""Runs the trials of a sweep, each in a run folder of its own: skips what is done and goes on with what is not."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from infoae_jax.config import program_key
from infoae_jax.data.load import load_splits
from infoae_jax.errors import BusyError, DivergedError, UserError, as_sentence
from infoae_jax.evaluation.measure import evaluate_run
from infoae_jax.evaluation.record import FULL, QUICK, Protocol, file_name
from infoae_jax.evaluation.table import HEADLINE
from infoae_jax.files import write_atomically
from infoae_jax.runs.folder import lock
from infoae_jax.runs.provenance import now
from infoae_jax.sweeps.results import (
    FAILURE_FILE,
    TRAINED,
    check_folders,
    estimate_remaining,
    read_trial,
    read_trials,
    write_results,
)
from infoae_jax.sweeps.trials import Trial
from infoae_jax.training.fit import Result, fit
from infoae_jax.training.group import fit_group, max_group_size

# What the training of a trial came to: its result, or why there is none.
Outcome = Result | Exception


@dataclasses.dataclass
class SweepOutcome:
    """How a sweep ended.

    stopped: by a signal, with everything saved; busy, failed: names of the trials that another process was at, and of
    those that gave nothing, now or before.
    """

    stopped: bool = False
    busy: list[str] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)


def run_sweep(
    trials: Sequence[Trial],
    protocol: Protocol = QUICK,
    say: Callable[[str], None] = print,
) -> SweepOutcome:
    """Trains and evaluates `trials`, in this order; the summary `sweep.jsonl` follows.

    A trial that diverged is left as it is (it would again); one that failed otherwise is tried anew. What goes wrong
    in one trial is recorded in its folder, and the others go on. A signal stops the trial as it would stop a single
    run, and the sweep with it.

    Raises:
      UserError: if the data cannot be loaded, a trial's folder holds another experiment, or nothing can be written:
        whatever would fail for all.
    """
    folder = trials[0].folder.parent
    check_folders(trials)
    for config in dict.fromkeys(trial.config.data for trial in trials):
        load_splits(config)
    report = SweepOutcome()
    trained: dict[str, Outcome] = {}
    for number, trial in enumerate(trials, 1):
        if trial.name in report.failed:  # together with one before
            continue
        line = read_trial(trial.folder)
        if line.state == "diverged":
            report.failed.append(trial.name)
        if not _is_left(trial, protocol):
            continue
        left = [t for t in trials[number - 1 :] if _is_left(t, protocol)]
        say(f"\n[{number}/{len(trials)}] {trial.name}. {estimate_remaining(left)}")
        if trial.name not in trained:
            alike = [trial]
            if line.state not in TRAINED and _on_accelerators():
                program = program_key(trial.config)
                untrained = [t for t in left if read_trial(t.folder).state not in TRAINED]
                alike = [t for t in untrained if program_key(t.config) == program]
            found = train_group(alike) if len(alike) > 1 else {trial.name: train_trial(trial)}
            for t in alike:  # at once: a signal may end the sweep before it is their turn
                _record(t, found.get(t.name), report, say)
            trained |= found
        outcome = trained.pop(trial.name)
        if isinstance(outcome, Result) and outcome.finished:
            outcome = _evaluate(trial, protocol, outcome, say)
            _record(trial, outcome, report, say)
        if isinstance(outcome, BusyError):
            say(f"{trial.name} is busy: another process is at it. Skipped.")
            report.busy.append(trial.name)
        _summarise(folder)
        if isinstance(outcome, Result) and (outcome.stopped or not outcome.finished):
            report.stopped = True
            break
    return report


def _is_left(trial: Trial, protocol: Protocol) -> bool:
    state = read_trial(trial.folder).state
    return state != "diverged" and (state != "finished" or not _is_evaluated(trial.folder, protocol))


def train_trial(trial: Trial) -> Outcome:
    """Trains a trial in this process; what goes wrong is returned."""
    (trial.folder / FAILURE_FILE).unlink(missing_ok=True)
    try:
        return fit(trial.config, trial.folder)
    except Exception as error:  # whatever it is, the other trials can go on
        return error


def train_group(trials: Sequence[Trial]) -> dict[str, Outcome]:
    """Trains as many of these trials, which share their programs, as the devices have memory for, all at once."""
    some = trials[: max_group_size([trial.config for trial in trials])]
    for trial in some:
        (trial.folder / FAILURE_FILE).unlink(missing_ok=True)
    try:
        outcomes = fit_group([trial.config for trial in some], [trial.folder for trial in some])
    except Exception as error:  # of all of them
        outcomes = [error] * len(some)
    return {trial.name: outcome for trial, outcome in zip(some, outcomes, strict=True)}


def _on_accelerators() -> bool:
    """Where runs are trained together; on the CPU that would be slower than one after the other."""
    return jax.local_devices()[0].platform != "cpu"


def _evaluate(trial: Trial, protocol: Protocol, result: Result, say: Callable[[str], None]) -> Outcome:
    if _is_evaluated(trial.folder, protocol) or result.stopped:
        return result
    try:
        with lock(trial.folder):  # another process may be at the same sweep
            evaluate_run(trial.folder, protocol, say=say)
    except Exception as error:
        return error
    line = read_trial(trial.folder, protocol)
    found = [(figure, line.figures.get(figure.name)) for figure in HEADLINE]
    say(", ".join(f"{figure.title} {figure.write(value)}" for figure, value in found if value is not None))
    return result


def _is_evaluated(folder: Path, protocol: Protocol) -> bool:
    """As `protocol` says or better."""
    return any((folder / file_name(p)).exists() for p in (FULL, protocol))


def _record(trial: Trial, error: Outcome | None, report: SweepOutcome, say: Callable[[str], None]) -> None:
    """In the trial's folder and in `report`, if it is a failure."""
    if not isinstance(error, Exception) or isinstance(error, BusyError):
        return
    report.failed.append(trial.name)
    state = "diverged" if isinstance(error, DivergedError) else "failed"
    known = isinstance(error, UserError | DivergedError)
    reason = as_sentence(error) if known else f"{type(error).__name__}: {error}".strip()
    say(f"{trial.name} {state}: {reason}\nThe other trials go on.")
    record: dict[str, Any] = {"state": state, "reason": reason, "values": dict(trial.values), "time": now()}
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(trial.folder / FAILURE_FILE, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as cause:
        raise UserError(
            f"{str(trial.folder)!r} cannot be written ({cause}). Make room and run the same again."
        ) from cause


def _summarise(folder: Path) -> None:
    try:
        write_results(folder, read_trials(folder))
    except OSError as error:
        raise UserError(f"{str(folder)!r} cannot be written ({error}). Make room and run the same again.") from error
