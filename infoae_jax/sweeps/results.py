"""How far the trials of a sweep are and what they gave: a pure reader of their folders.

`sweep.jsonl` has a line for each trial folder and can be made again from these at any time.
"""

import contextlib
import dataclasses
import datetime
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infoae_jax.config import Config, differences, program_key
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, PROTOCOLS, Protocol, file_name, read_evaluation
from infoae_jax.evaluation.table import HEADLINE
from infoae_jax.files import write_atomically
from infoae_jax.runs.folder import is_locked, read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.sweeps.trials import SEED, Trial, format_value, group_trials, parse_trial_name, trial_name

TRAINED = ("trained", "finished")  # states
FAILURE_FILE = "failed.json"  # in a trial's folder: why it ended before its time
MSE_TOLERANCE = 0.10  # share by which the MSE of a recommended setting may exceed the best one


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """What a trial's folder says.

    state: 'new', 'interrupted', 'trained' (not evaluated), 'finished', 'diverged', 'failed'. reason: of the last two.
    values: what it changes, by field. figures: chief figures by name (see `table.HEADLINE`), of
    `protocol`; full: those of
    the full evaluation, where there is one beside it.
    training_s: wall time, None where a part of it is unknown; evaluation_s without that of training the judges.
    """

    name: str
    state: str
    values: dict[str, Any]
    step: int = 0
    reason: str = ""
    data: str = ""
    bottleneck: int = 0
    protocol: str = ""
    figures: dict[str, float | None] = dataclasses.field(default_factory=dict)
    full: dict[str, float | None] = dataclasses.field(default_factory=dict)
    chance: float | None = None
    untrusted: tuple[str, ...] = ()
    training_s: float | None = None
    evaluation_s: float | None = None

    @property
    def compared(self) -> bool:
        """Whether it has both figures of the trade-off."""
        return self.figures.get("probe_accuracy") is not None and self.figures.get("mse") is not None


def read_trial(folder: Path, protocol: Protocol | None = None) -> TrialResult:
    """The line of a trial's folder, which need not exist; with the figures of `protocol`, or else of the best one."""
    failed: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        failed = json.loads((folder / FAILURE_FILE).read_text())
    reason, state = failed.get("reason", ""), failed.get("state", "new")
    if not (folder / "config.json").exists():
        return TrialResult(folder.name, state, failed.get("values", {}), reason=reason)
    info = read_info(folder)
    lines = read_metrics(folder)
    best = read_evaluation(folder)
    record = best if protocol is None else read_evaluation(folder, protocol)
    if not failed:
        state = "interrupted"
        if any(line["kind"] == "end" for line in lines):
            state = "trained" if best is None else "finished"
    line = TrialResult(
        folder.name,
        state,
        parse_trial_name(folder.name, info.config),
        max((line.get("step", 0) for line in lines), default=0),
        reason,
        info.config.data.name,
        info.config.model.bottleneck,
        training_s=_training_seconds(lines),
    )
    if best is None or state != "finished":
        return line
    name = best["protocol"]["name"]
    if name == FULL.name and (record is None or record["protocol"]["name"] != name):
        line = dataclasses.replace(line, full=_chief(best))
    if record is None:
        return line
    return dataclasses.replace(
        line,
        protocol=record["protocol"]["name"],
        figures=_chief(record),
        chance=record["figures"].get("leakage", {}).get("chance"),
        untrusted=tuple(record["untrusted"]),
        evaluation_s=record["cost"]["evaluation_s"],
    )


def _chief(record: dict[str, Any]) -> dict[str, float | None]:
    return {figure.name: figure.of(record) for figure in HEADLINE}


def read_trials(folder: Path) -> list[TrialResult]:
    """The lines of all trials that have begun in `folder`, sorted by what they change.

    Their figures are of one protocol, so that they can be compared: that by which most trials were evaluated, the
    better one if there are two.
    """
    paths = {path.parent for name in ("config.json", FAILURE_FILE) for path in folder.glob(f"*/{name}")}
    count = {p: sum((path / file_name(p)).exists() for path in paths) for p in PROTOCOLS.values()}
    lines = [read_trial(path, max(count, key=lambda p: count[p])) for path in paths]
    return sorted(lines, key=lambda line: ([(f, _sortable(v)) for f, v in line.values.items()], line.name))


def write_results(folder: Path, lines: Sequence[TrialResult]) -> Path:
    """Writes `sweep.jsonl`."""
    path = folder / "sweep.jsonl"
    text = "".join(json.dumps(dataclasses.asdict(line)) + "\n" for line in lines)
    write_atomically(path, text.encode())
    return path


def find_sweep(run: str | Path) -> tuple[Path, list[TrialResult]]:
    """The folder that holds the trials, from that one or the one it lies in; and their lines.

    Raises:
      UserError: if there are none.
    """
    run = Path(run)
    folder = run / "sweep" if (run / "sweep").is_dir() else run
    lines = read_trials(folder)
    if not lines:
        raise UserError(f"{str(run)!r} holds no trials of a sweep. Start one: python launch.py --config=... --sweep")
    return folder, lines


@dataclasses.dataclass(frozen=True)
class Setting:
    """Finished trials that differ in their seed only."""

    values: dict[str, Any]  # without the seed
    lines: tuple[TrialResult, ...]

    @property
    def name(self) -> str:
        return trial_name(self.values)

    def mean(self, figure: str) -> float | None:
        values = self._values(figure)
        return statistics.fmean(values) if values else None

    def full(self, figure: str) -> float | None:
        """The mean of the full evaluations, if all its trials have one beside the figures that are compared."""
        values = [value for line in self.lines if (value := line.full.get(figure)) is not None]
        return statistics.fmean(values) if len(values) == len(self.lines) else None

    def spread(self, figure: str) -> float:
        """Standard deviation over the seeds; 0 for one."""
        values = self._values(figure)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def _values(self, figure: str) -> list[float]:
        found = (line.figures.get(figure) for line in self.lines)
        return [value for value in found if value is not None]


def group_by_setting(lines: Sequence[TrialResult]) -> list[Setting]:
    """The settings that have leakage and MSE, in the order of `lines`, whose figures are of one protocol."""
    found: dict[Any, list[TrialResult]] = {}
    for line in filter(lambda line: line.compared, lines):
        found.setdefault(tuple((f, v) for f, v in line.values.items() if f != SEED), []).append(line)
    return [Setting(dict(key), tuple(members)) for key, members in found.items()]


def rank_settings(found: Sequence[Setting], within: float = MSE_TOLERANCE) -> list[Setting]:
    """The best first: by leakage among those whose MSE is at most `within` above the best one; then the others by MSE.

    Both are means over seeds.
    """
    if not found:
        return []
    bound = min(_mean(setting, "mse") for setting in found) * (1 + within)
    good = [setting for setting in found if _mean(setting, "mse") <= bound]
    others = [setting for setting in found if _mean(setting, "mse") > bound]
    return sorted(good, key=lambda s: _mean(s, "probe_accuracy")) + sorted(others, key=lambda s: _mean(s, "mse"))


def _mean(setting: Setting, figure: str) -> float:
    value = setting.mean(figure)
    assert value is not None  # `settings` leaves out those without
    return value


def check_folders(trials: Sequence[Trial]) -> None:
    """Raises `UserError` if the folder of a trial holds another experiment, for instance of a former sweep."""
    for trial in trials:
        if (trial.folder / "config.json").exists():
            found = differences(read_info(trial.folder).config, trial.config)
            if found:
                raise UserError(
                    f"The folder {str(trial.folder)!r} belongs to another sweep. Different (there -> asked for):\n  "
                    + "\n  ".join(found)
                    + "\nChoose another --workdir, or ask for the same."
                )


def list_states(trials: Sequence[Trial]) -> str:
    """The trials with their state, by groups that share their programs, and how long those left will take."""
    lines = {trial.name: read_trial(trial.folder) for trial in trials}
    states = {n: "busy" if is_locked(t.folder) else lines[n].state for n, t in ((t.name, t) for t in trials)}
    groups = group_trials(trials)
    text = [f"{trials[0].folder.parent}: {_count(len(trials), 'trial')} in {_count(len(groups), 'group')}"]
    width = max(map(len, lines))
    for number, group in enumerate(groups, 1):
        text.append(f"group {number}: {_count(len(group), 'trial')} with the same programs")
        for trial in group:
            line, state = lines[trial.name], states[trial.name]
            about = line.reason.splitlines()[0] if line.reason else ""
            if state == "interrupted":
                about = f"at step {line.step}"
            if line.compared:
                named = [figure for figure in HEADLINE if figure.name in ("probe_accuracy", "mse")]
                about = ", ".join(f"{figure.title} {figure.write(line.figures[figure.name])}" for figure in named)
                about += f" ({line.protocol})"
            text.append(f"  {state:<11}  {trial.name:<{width}}  {about}".rstrip())
    counts = ", ".join(f"{list(states.values()).count(state)} {state}" for state in dict.fromkeys(states.values()))
    left = [trial for trial in trials if states[trial.name] in ("new", "interrupted", "trained", "failed")]
    return "\n".join([*text, counts, estimate_remaining(left)])


def estimate_remaining(left: Sequence[Trial]) -> str:
    """How long these trials will take one after the other, by runs that were measured here, in words."""
    if not left:
        return "Nothing is left to do."
    same, like = _measured(left[0].folder.parent)
    total, rough = 0.0, False
    for trial in left:
        seconds = same.get(program_key(trial.config)) or like.get(_work(trial.config))
        if seconds is None:
            return f"{_count(len(left), 'trial')} left; no such run was measured here yet, so the time is unknown."
        rough = rough or program_key(trial.config) not in same
        total += statistics.median(seconds)  # the first one compiled for all
    by = "like runs of other sizes took here" if rough else "as such runs took here"
    return f"{_count(len(left), 'trial')} left: about {format_duration(total)} one after the other, {by}."


def format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _measured(folder: Path) -> tuple[dict[Any, list[float]], dict[Any, list[float]]]:
    """Seconds of finished trials in this sweep and of runs beside it: by program, and by amount of work."""
    same: dict[Any, list[float]] = {}
    like: dict[Any, list[float]] = {}
    for path in (*folder.glob("*/config.json"), *folder.parent.parent.glob("*/config.json")):
        with contextlib.suppress(UserError):  # a stranger's folder
            line, config = read_trial(path.parent), read_info(path.parent).config
            if line.training_s is not None and line.state in TRAINED:
                seconds = line.training_s + (line.evaluation_s or 0)
                same.setdefault(program_key(config), []).append(seconds)
                like.setdefault(_work(config), []).append(seconds)
    return same, like


def _work(config: Config) -> Any:
    """Runs that are alike in this take a like time."""
    data = dataclasses.replace(config.data, dir="", cache_dir="", seed=0)
    return data, config.train.epochs, config.train.batch_size, config.alignment.epochs, config.refine.epochs


def _training_seconds(lines: Sequence[dict[str, Any]]) -> float | None:
    total, begun = 0.0, None
    for line in lines:
        if line["kind"] == "start" and begun is not None:
            return None  # a process was killed, nobody knows when
        if line["kind"] in ("start", "stop", "end"):
            at = datetime.datetime.fromisoformat(line["time"])
            if begun is not None:
                total += (at - begun).total_seconds()
            begun = at if line["kind"] == "start" else None
    return total if lines and begun is None else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _sortable(value: Any) -> tuple[str, Any]:
    """Numbers by size, before texts; other things as texts."""
    is_number = isinstance(value, (int, float))
    return ("", value) if is_number else ("text", format_value(value))
