"""Runs the trials of a sweep, each in its own run folder: skips those that are done and resumes those that are not."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

from infoae_jax.data.load import load_splits
from infoae_jax.devices.mesh import is_cpu
from infoae_jax.errors import BusyError, DivergedError, UserError, as_sentence
from infoae_jax.evaluation.measure import evaluate_run
from infoae_jax.evaluation.record import FULL, QUICK, Protocol, file_name
from infoae_jax.evaluation.table import HEADLINE
from infoae_jax.files import write_atomically
from infoae_jax.runs.folder import lock
from infoae_jax.runs.provenance import now
from infoae_jax.sweeps import results
from infoae_jax.sweeps.results import TRAINED, read_trial
from infoae_jax.sweeps.trials import Trial, group_trials
from infoae_jax.training.fit import Result, fit, fit_group

Outcome: TypeAlias = Result | Exception  # of training a trial


@dataclasses.dataclass
class SweepOutcome:
    """How a sweep ended."""

    stopped: bool = False  # by a signal, with everything saved
    busy: list[str] = dataclasses.field(default_factory=list)  # trials that another process was training
    failed: list[str] = dataclasses.field(default_factory=list)  # trials that gave nothing, now or before


def run_sweep(trials: Sequence[Trial], protocol: Protocol = QUICK, say: Callable[[str], None] = print) -> SweepOutcome:
    """Trains and evaluates `trials`, in this order, and updates `sweep.jsonl` after each.

    A trial that diverged is left as it is (it would again); one that failed otherwise is tried again. Whatever goes
    wrong in one trial is recorded in its folder, and the others continue. A signal stops the trial as it would stop a
    single run, and the sweep with it. `say` is called with sentences about the progress.

    Raises:
      UserError: whatever would fail for all trials: the data cannot be loaded, a folder holds another experiment, or
        nothing can be written.
    """
    results.check_folders(trials)
    for data in dict.fromkeys(trial.config.data for trial in trials):
        load_splits(data)
    try:
        return _run(trials, protocol, say)
    except OSError as error:
        advice = "Make room and run the same again."
        raise UserError(f"{str(trials[0].folder.parent)!r} cannot be written ({error}). {advice}") from error


def _run(trials: Sequence[Trial], protocol: Protocol, say: Callable[[str], None]) -> SweepOutcome:
    folder, sweep, outcomes = trials[0].folder.parent, SweepOutcome(), dict[str, Outcome]()
    most = len(trials)  # in a group
    for number, trial in enumerate(trials, 1):
        if trial.name in sweep.failed:  # in a group with an earlier one
            continue
        state = read_trial(trial.folder).state
        if state == "diverged":
            sweep.failed.append(trial.name)
        if _is_done(trial, protocol):
            continue
        left = [trial, *(t for t in trials[number:] if not _is_done(t, protocol))]
        say(f"\n[{number}/{len(trials)}] {trial.name}. {results.estimate_remaining(left)}")
        if trial.name not in outcomes:
            group = [trial]
            if state not in TRAINED and not is_cpu():  # on a CPU, one after the other is faster
                group += [t for t in group_trials(left)[0][1:] if read_trial(t.folder).state not in TRAINED]
            group = group[:most]
            found = _train(group)
            outcomes |= found
            sweep.stopped |= any(isinstance(o, Result) and (o.stopped or not o.finished) for o in found.values())
            if len(found) < len(group):  # so many fit into the memory
                most = len(found)
            for t in group:  # at once: a signal may end the sweep before it is their turn
                _record_failure(t, outcomes.get(t.name), sweep, say)
        outcome: Outcome | None = outcomes.pop(trial.name)
        if isinstance(outcome, Result):
            sweep.stopped |= outcome.stopped or not outcome.finished
            if not sweep.stopped and not _is_done(trial, protocol):  # another process may run the same sweep
                outcome = _evaluate(trial, protocol, say)
                _record_failure(trial, outcome, sweep, say)
        if isinstance(outcome, BusyError):
            say(f"{trial.name} is left out: another process is training it.")
            sweep.busy.append(trial.name)
        results.write_results(folder, results.read_trials(folder))
        if sweep.stopped:
            break
    return sweep


def _is_done(trial: Trial, protocol: Protocol) -> bool:
    """Whether nothing can be done for it: it diverged, or is evaluated as `protocol` says or better."""
    state = read_trial(trial.folder).state
    is_evaluated = any((trial.folder / file_name(p)).exists() for p in (FULL, protocol))
    return state == "diverged" or (state == "finished" and is_evaluated)


def _train(group: Sequence[Trial]) -> dict[str, Outcome]:
    """Trains these trials, which share their programs, at once: as many as the devices have memory for."""
    for trial in group:
        (trial.folder / results.FAILURE_FILE).unlink(missing_ok=True)
    try:
        if len(group) > 1:
            outcomes = fit_group([trial.config for trial in group], [trial.folder for trial in group])
        else:
            outcomes = [fit(group[0].config, group[0].folder)]
    except Exception as error:  # whatever it is, the other trials continue
        outcomes = [error] * len(group)
    # XLA's word for too little memory. (Not above, where the error holds what lies on the devices.)
    if len(group) > 1 and all("RESOURCE_EXHAUSTED" in str(outcome) for outcome in outcomes):
        outcomes.clear()
        return _train(group[: (len(group) + 1) // 2])
    return {trial.name: outcome for trial, outcome in zip(group, outcomes, strict=True)}


def _evaluate(trial: Trial, protocol: Protocol, say: Callable[[str], None]) -> Exception | None:
    try:
        with lock(trial.folder):
            evaluate_run(trial.folder, protocol, say=say)
    except Exception as error:
        return error
    figures = read_trial(trial.folder, protocol).figures
    say(", ".join(f"{m.title} {m.write(figures[m.name])}" for m in HEADLINE if figures.get(m.name) is not None))
    return None


def _record_failure(trial: Trial, outcome: Outcome | None, sweep: SweepOutcome, say: Callable[[str], None]) -> None:
    """Notes a failure in the trial's folder and in `sweep`; anything else is left as it is."""
    if not isinstance(outcome, Exception) or isinstance(outcome, BusyError):
        return
    sweep.failed.append(trial.name)
    state = "diverged" if isinstance(outcome, DivergedError) else "failed"
    is_known = isinstance(outcome, UserError | DivergedError)
    reason = as_sentence(outcome) if is_known else f"{type(outcome).__name__}: {outcome}".strip()
    say(f"{trial.name} {state}: {reason}\nThe other trials continue.")
    record = {"state": state, "reason": reason, "values": trial.values, "time": now()}
    trial.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(trial.folder / results.FAILURE_FILE, (json.dumps(record, indent=1) + "\n").encode())
