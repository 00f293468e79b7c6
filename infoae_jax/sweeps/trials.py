"""What a sweep consists of: its trials, their names, which of them share a program. Pure; touches no files or devices.

A configuration file lists its trials in `sweep(add)`, as data:

    def sweep(add):
        for lam in (0.0, 0.005, 0.02):
            add(**{"train.lambda_adv": lam, "model.bottleneck": 16})
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from infoae_jax.config import Config, flatten, parse, program_key, to_dict
from infoae_jax.errors import UserError

SEED = "train.seed"  # repeats of one setting differ in it
# A field is called by its last part ('seed') if no section before its own has one of that name; else 'data.seed'.
_SECTIONS = ("train", "model", "data", "alignment", "refine", "log", "checkpoint", "evaluate")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    name: what it changes, 'bottleneck=16,lambda_adv=0.01,seed=0'. folder: its run folder, '<sweep>/<name>'.
    values: what it changes, by field ('model.bottleneck').
    """

    name: str
    config: Config
    folder: Path
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def list_trials(config: Config, sweep: Callable[[Callable[..., None]], None], folder: Path) -> list[Trial]:
    """The trials that `sweep` adds to `config`, in its order, to be run in folders below `folder`.

    Args:
      sweep: calls the function that it is given once for each trial, with the fields to change as keywords.

    Raises:
      UserError: if it adds none, or twice the same, or a field or value that cannot be.
    """
    added: list[dict[str, Any]] = []
    try:
        sweep(lambda **values: added.append(values))
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"The configuration's sweep(add) raises {type(error).__name__}: {error}") from error
    if not added:
        raise UserError("The configuration's sweep(add) adds no trial. Let it call add(**{'train.lambda_adv': 0.01}).")
    found: dict[str, Trial] = {}
    for values in added:
        name = trial_name(values)
        if name in found:
            raise UserError(f"The configuration's sweep(add) adds two trials that are both called {name!r}.")
        found[name] = Trial(name, _changed(config, values), folder / name, values)
    return list(found.values())


def short_name(field: str) -> str:
    """What `field` is called in names and filters: 'seed' is train's, 'data.seed' the other one."""
    section, _, last = field.partition(".")
    if section not in _SECTIONS:
        return field
    sections = get_type_hints(Config)
    before = _SECTIONS[: _SECTIONS.index(section)]
    taken = any(last in get_type_hints(sections[name]) for name in before)
    return field if taken else last


def parse_trial_name(name: str, config: Config) -> dict[str, Any]:
    """What a trial of this name changes, as its configuration has it; parts that name no setting are left out."""
    flat = flatten(to_dict(config))
    called = {short_name(field): field for field in flat}
    fields = (called.get(part.partition("=")[0]) for part in name.split(","))
    return {field: flat[field] for field in fields if field}


def trial_name(values: Mapping[str, Any]) -> str:
    """A name that is fit for a folder: 'bottleneck=16,lambda_adv=0.01,seed=0', in the order given."""
    return ",".join(f"{short_name(field)}={format_value(value)}" for field, value in values.items()) or "default"


def format_value(value: Any) -> str:
    """A value as names, filters and pages write it: 0.01, 16, ball, 32-64-128."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(format_value, value))
    if isinstance(value, float):
        return f"{value:.12g}"
    return re.sub(r"[^\w.+-]+", "-", str(value))


def group_trials(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that differ in `config.TRACED` fields only, and so share their compiled programs, in order."""
    found: dict[Any, list[Trial]] = {}
    for trial in trials:
        found.setdefault(program_key(trial.config), []).append(trial)
    return list(found.values())


def filter_trials(trials: Sequence[Trial], conditions: str) -> list[Trial]:
    """The trials that meet all of `conditions`, which are joined by commas: 'bottleneck=16|32,lambda_adv<=0.01,seed=0'.

    A condition is a field (as in the trials' names, or in full), one of = != < <= > >=, and a value; = and != take
    several values, joined by '|'. Trials that leave a field as it is have the configuration's value.

    Raises:
      UserError: if a condition cannot be read, names a field that is not swept, or no trial is left.
    """
    left = list(trials)
    swept = list(dict.fromkeys(field for trial in trials for field in trial.values))
    for text in filter(None, (part.strip() for part in conditions.split(","))):
        parts = re.fullmatch(r"([\w.]+)\s*(<=|>=|!=|<|>|=)\s*(.+)", text)
        if not parts:
            raise UserError(
                f"--sweep_filter: cannot read {text!r}. A condition is written bottleneck=16, seed=0|1, or "
                f"lambda_adv<=0.01; several are joined by commas."
            )
        name, sign, value = parts.groups()
        fields = [field for field in swept if name in (field, short_name(field))]
        if not fields:
            known = ", ".join(map(short_name, swept))
            raise UserError(f"--sweep_filter: {name!r} is not swept. The trials differ in: {known}.")
        values = {trial.name: flatten(to_dict(trial.config))[fields[0]] for trial in trials}
        left = [trial for trial in left if _meets(values[trial.name], sign, value)]
        if not left:
            there = dict.fromkeys(map(format_value, values.values()))
            raise UserError(f"--sweep_filter: no trial is left by {text!r}. {name} is one of: {', '.join(there)}.")
    return left


def select_trials(trials: Sequence[Trial], names: Sequence[str]) -> list[Trial]:
    """The trials of these names, in the order of `trials`.

    Raises:
      UserError: if one is not among them.
    """
    unknown = sorted(set(names) - {trial.name for trial in trials})
    if unknown:
        raise UserError(f"The sweep has no trial {unknown[0]!r}. There are:\n  " + "\n  ".join(t.name for t in trials))
    return [trial for trial in trials if trial.name in names]


def _meets(value: Any, sign: str, wanted: str) -> bool:
    if sign in ("=", "!="):
        equal = any(_same(value, alternative.strip()) for alternative in wanted.split("|"))
        return equal == (sign == "=")
    try:
        return _COMPARE[sign](float(value), float(wanted))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--sweep_filter: {sign!r} needs numbers, not {format_value(value)!r} and {wanted!r}."
        ) from error


def _same(value: Any, text: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return math.isclose(value, float(text), rel_tol=1e-9)
        except ValueError:
            return False
    return text in (format_value(value), str(value))


def _changed(config: Config, values: Mapping[str, Any]) -> Config:
    tree = to_dict(config)
    for field, value in values.items():
        section, _, last = field.partition(".")
        if not isinstance(tree.get(section), dict) or last not in tree[section]:
            raise UserError(
                f"The configuration's sweep(add) adds {field!r}, which is no setting. They are written with their "
                f"section, for instance 'train.lambda_adv' or 'model.bottleneck'."
            )
        tree[section][last] = value
    try:
        return parse(tree)
    except UserError as error:
        raise UserError(f"Trial {trial_name(values)!r} of the sweep cannot work: {error}") from error
