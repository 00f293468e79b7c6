"""How far the trials of a sweep are and what they gave, read from their folders.

`sweep.jsonl` has a line for each trial folder and can be made again from these at any time.
"""

import collections
import contextlib
import dataclasses
import datetime
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from infoae_jax.config import Config, program_key
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, PROTOCOLS, Protocol, Record, file_name, read_evaluation
from infoae_jax.evaluation.table import HEADLINE
from infoae_jax.files import read_json, write_atomically
from infoae_jax.runs.folder import check_config, is_locked, read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.sweeps.trials import SEED, Trial, format_value, group_trials, parse_trial_name, trial_name
from infoae_jax.types import Json

# finished: and evaluated; damaged: a file in its folder cannot be read
State: TypeAlias = Literal["new", "interrupted", "trained", "finished", "diverged", "failed", "damaged"]
TRAINED: tuple[State, ...] = ("trained", "finished")
FAILURE_FILE = "failed.json"  # in a trial's folder: why it failed
MSE_TOLERANCE = 0.10  # share by which the MSE of a recommended setting may exceed the lowest one


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """The contents of a trial's folder."""

    name: str
    state: State
    values: Json  # what it changes, by field
    step: int = 0  # the last one taken
    reason: str = ""  # why it diverged or failed
    data: str = ""  # name of the data set
    bottleneck: int = 0
    protocol: str = ""  # by which `figures` were measured
    figures: dict[str, float | None] = dataclasses.field(default_factory=dict)  # the metrics of `table.HEADLINE`
    full: dict[str, float | None] = dataclasses.field(default_factory=dict)  # those of the full evaluation, if another
    chance: float | None = None  # probe accuracy of guessing
    untrusted: tuple[str, ...] = ()  # groups of figures whose judges are not good enough
    training_s: float | None = None  # wall time; None if nobody knows, since a process was killed
    evaluation_s: float | None = None  # without the training of the judges

    @property
    def is_comparable(self) -> bool:
        """Whether it has both figures of the trade-off."""
        return self.figures.get("probe_accuracy") is not None and self.figures.get("mse") is not None


class _Failure(TypedDict):
    """The content of `FAILURE_FILE`."""

    state: Literal["diverged", "failed"]
    reason: str
    values: dict[str, bool | int | float | str | list[bool | int | float | str]]


def read_trial(folder: Path, protocol: Protocol | None = None) -> TrialResult:
    """Reads the folder of a trial, which need not exist; with the figures of `protocol`, or else of the best one."""
    try:
        return _read_trial(folder, protocol)
    except UserError as error:
        return TrialResult(folder.name, "damaged", {}, reason=str(error))


def _read_trial(folder: Path, protocol: Protocol | None) -> TrialResult:
    failure: _Failure | None = None
    with contextlib.suppress(FileNotFoundError):
        failure = read_json(folder / FAILURE_FILE, _Failure, "Move it away to try this trial again.")
    state: State = failure["state"] if failure else "new"
    reason = failure["reason"] if failure else ""
    if not (folder / "config.json").exists():
        return TrialResult(folder.name, state, failure["values"] if failure else {}, reason=reason)
    config, lines, best = read_info(folder).config, read_metrics(folder), read_evaluation(folder)
    if not failure:
        has_ended = any(line["kind"] == "end" for line in lines)
        state = "interrupted" if not has_ended else "trained" if best is None else "finished"
    measured: Json = {}
    if best is not None and state == "finished":
        if best["protocol"]["name"] == FULL.name and protocol not in (None, FULL):
            measured["full"] = _headline(best)
        if record := read_evaluation(folder, protocol):
            measured |= {"protocol": record["protocol"]["name"], "figures": _headline(record)}
            measured["chance"] = record["figures"].get("leakage", {}).get("chance")
            measured |= {"untrusted": tuple(record["untrusted"]), "evaluation_s": record["cost"].get("evaluation_s")}
    return TrialResult(
        folder.name,
        state,
        parse_trial_name(folder.name, config),
        step=max((line["step"] for line in lines), default=0),
        reason=reason,
        data=config.data.name,
        bottleneck=config.model.bottleneck,
        training_s=_training_seconds(lines),
        **measured,
    )


def _headline(record: Record) -> dict[str, float | None]:
    return {metric.name: metric.of(record) for metric in HEADLINE}


def _training_seconds(lines: Sequence[Json]) -> float | None:
    """The times of all processes; None if one of them did not note its end."""
    marks = [line for line in lines if line["kind"] in ("start", "stop", "end")]
    if not marks or [mark["kind"] == "start" for mark in marks] != [True, False] * (len(marks) // 2):
        return None
    times = [datetime.datetime.fromisoformat(mark["time"]) for mark in marks]
    return sum((end - start).total_seconds() for start, end in zip(times[::2], times[1::2], strict=True))


def read_trials(folder: Path) -> list[TrialResult]:
    """Reads all trials that have begun in `folder`, sorted by what they change.

    Their figures are all of one protocol, so that they can be compared: the one by which most trials were evaluated,
    or the better one of two.
    """
    paths = {path.parent for name in ("config.json", FAILURE_FILE) for path in folder.glob(f"*/{name}")}
    protocol = max(PROTOCOLS.values(), key=lambda p: sum((path / file_name(p)).exists() for path in paths))
    results = [read_trial(path, protocol) for path in paths]
    return sorted(results, key=lambda trial: ([(f, _sort_key(v)) for f, v in trial.values.items()], trial.name))


def _sort_key(value: object) -> tuple[float, str]:
    """Numbers by size, and then everything else as text."""
    return (value, "") if isinstance(value, (int, float)) else (math.inf, format_value(value))


def write_results(folder: Path, results: Sequence[TrialResult]) -> None:
    """Writes `sweep.jsonl`."""
    text = "".join(json.dumps(dataclasses.asdict(trial)) + "\n" for trial in results)
    write_atomically(folder / "sweep.jsonl", text.encode())


def find_sweep(run: str | Path) -> tuple[Path, list[TrialResult]]:
    """The folder of a sweep, which is `run` or lies in it, and its trials; raises `UserError` if there are none."""
    folder = Path(run) / "sweep" if (Path(run) / "sweep").is_dir() else Path(run)
    if results := read_trials(folder):
        return folder, results
    advice = "Start one: python launch.py --config=configs/mnist.py --sweep"
    raise UserError(f"{str(run)!r} holds no trials of a sweep. {advice}")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Comparable trials that differ in their seed only."""

    values: Json  # what they change, by field, without the seed
    trials: tuple[TrialResult, ...]

    @property
    def name(self) -> str:
        """As the name of a trial, without the seed."""
        return trial_name(self.values)

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds that have it; None if none has."""
        values = self._values(metric)
        return statistics.fmean(values) if values else None

    def full(self, metric: str) -> float | None:
        """The mean of the full evaluations, if each trial has one besides the figures that are compared."""
        values = [value for trial in self.trials if (value := trial.full.get(metric)) is not None]
        return statistics.fmean(values) if len(values) == len(self.trials) else None

    def spread(self, metric: str) -> float:
        """The standard deviation over the seeds; 0 for one."""
        values = self._values(metric)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def _values(self, metric: str) -> list[float]:
        return [value for trial in self.trials if (value := trial.figures.get(metric)) is not None]


def group_by_setting(results: Sequence[TrialResult]) -> list[Setting]:
    """The settings of the comparable trials among `results`, whose figures are of one protocol, in their order."""
    found: dict[tuple[tuple[str, object], ...], list[TrialResult]] = {}
    for trial in results:
        if trial.is_comparable:
            found.setdefault(tuple((f, v) for f, v in trial.values.items() if f != SEED), []).append(trial)
    return [Setting(dict(values), tuple(trials)) for values, trials in found.items()]


def rank_settings(settings: Sequence[Setting], within: float = MSE_TOLERANCE) -> list[Setting]:
    """By means over seeds: those with an MSE at most `within` above the lowest, by leakage; then the others by MSE."""
    bound = min((setting.mean("mse") or 0.0 for setting in settings), default=0.0) * (1 + within)

    def rank(setting: Setting) -> tuple[bool, float]:
        mse, leakage = setting.mean("mse") or 0.0, setting.mean("probe_accuracy") or 0.0
        return (True, mse) if mse > bound else (False, leakage)

    return sorted(settings, key=rank)


def check_folders(trials: Sequence[Trial]) -> None:
    """Raises `UserError` if the folder of a trial holds another experiment, for instance of another sweep."""
    for trial in trials:
        if (trial.folder / "config.json").exists():
            check_config(trial.folder, trial.config)


def list_states(trials: Sequence[Trial]) -> str:
    """The trials with their states, by groups that share their programs, and how long those left will take."""
    results = {trial.name: read_trial(trial.folder) for trial in trials}
    states = {t.name: "busy" if is_locked(t.folder) else results[t.name].state for t in trials}
    groups = group_trials(trials)
    text = [f"{trials[0].folder.parent}: {_count(len(trials), 'trial')} in {_count(len(groups), 'group')}"]
    width = max(map(len, results))
    for number, group in enumerate(groups, 1):
        text.append(f"group {number}: {_count(len(group), 'trial')} with the same programs")
        text += [f"  {states[t.name]:<11}  {t.name:<{width}}  {_progress(results[t.name])}".rstrip() for t in group]
    text.append(", ".join(f"{count} {state}" for state, count in collections.Counter(states.values()).items()))
    left = [trial for trial in trials if states[trial.name] in ("new", "interrupted", "trained", "failed", "damaged")]
    return "\n".join([*text, estimate_remaining(left)])


def _progress(trial: TrialResult) -> str:
    if trial.is_comparable:
        chief = [f"{m.title} {m.write(trial.figures[m.name])}" for m in HEADLINE if m.name in ("probe_accuracy", "mse")]
        return f"{', '.join(chief)} ({trial.protocol})"
    return f"at step {trial.step}" if trial.state == "interrupted" else trial.reason.partition("\n")[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def estimate_remaining(left: Sequence[Trial]) -> str:
    """A sentence on how long these trials will take one after the other, judged by runs that were measured here."""
    if not left:
        return "Nothing is left to do."
    measured = _measured_seconds(left[0].folder.parent)
    seconds = [measured.get(program_key(t.config)) or measured.get(_workload(t.config)) for t in left]
    known = [statistics.median(s) for s in seconds if s]  # the median, as the first of a program has compiled it
    if len(known) < len(left):
        return f"{_count(len(left), 'trial')} left; no such run was measured here yet, so the time is unknown."
    kind = "the same" if all(program_key(trial.config) in measured for trial in left) else "similar"
    time = format_duration(sum(known))
    return f"{_count(len(left), 'trial')} left: about {time} one after the other, judging by {kind} runs here."


def format_duration(seconds: float) -> str:
    """'45 s', '12 min' or '2 h 5 min'."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _measured_seconds(folder: Path) -> dict[tuple[object, ...], list[float]]:
    """Seconds of trained trials in this sweep and of runs beside it, by programs and by workload."""
    found: dict[tuple[object, ...], list[float]] = {}
    for path in (*folder.glob("*/config.json"), *folder.parent.parent.glob("*/config.json")):
        with contextlib.suppress(UserError):  # a stranger's folder
            trial, config = read_trial(path.parent), read_info(path.parent).config
            if trial.training_s is not None and trial.state in TRAINED:
                for key in (program_key(config), _workload(config)):
                    found.setdefault(key, []).append(trial.training_s + (trial.evaluation_s or 0))
    return found


def _workload(config: Config) -> tuple[object, ...]:
    """Runs that are equal in this take a similar time."""
    data = dataclasses.replace(config.data, dir="", cache_dir="", seed=0)
    return data, config.train.epochs, config.train.batch_size, config.alignment.epochs, config.refine.epochs
