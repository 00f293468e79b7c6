"""The trials of a sweep: their names, and which of them share compiled programs. Touches no files and no devices.

A configuration file lists them in `sweep(add)`, which calls `add(**{"train.lambda_adv": 0.01, ...})` for each.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_type_hints

from infoae_jax.config import Config, flatten, parse, program_key, to_dict
from infoae_jax.errors import UserError
from infoae_jax.types import Json

SEED = "train.seed"  # repeats of one setting differ in it
_ORDERINGS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str  # what it changes: 'bottleneck=16,lambda_adv=0.01,seed=0'
    config: Config
    folder: Path  # its run folder, '<sweep>/<name>'
    values: Json = dataclasses.field(default_factory=dict)  # what it changes, by field ('model.bottleneck')


def list_trials(config: Config, sweep: Callable[[Callable[..., None]], object], folder: Path) -> list[Trial]:
    """The trials that `sweep` adds to `config`, in its order, with run folders in `folder`.

    Args:
      sweep: calls the function that it is given once for each trial, with the fields to change as keywords.

    Raises:
      UserError: if it adds none, or two of the same name, or a field or value that cannot be.
    """
    added: list[Json] = []
    try:
        sweep(lambda **values: added.append(values))
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"The configuration's sweep(add) raises {type(error).__name__}: {error}") from error
    if not added:
        raise UserError("The configuration's sweep(add) adds no trial. Let it call add(**{'train.lambda_adv': 0.01}).")
    trials: dict[str, Trial] = {}
    for values in added:
        name = trial_name(values)
        if name in trials:
            raise UserError(f"The configuration's sweep(add) adds two trials called {name!r}. Remove one.")
        trials[name] = Trial(name, _changed(config, values), folder / name, values)
    return list(trials.values())


def _changed(config: Config, values: Json) -> Config:
    tree = to_dict(config)
    for field, value in values.items():
        section, _, last = field.partition(".")
        if last not in tree.get(section, {}):
            raise UserError(
                f"The configuration's sweep(add) adds {field!r}, which is no setting. Write settings with their "
                f"section, for instance 'train.lambda_adv' or 'model.bottleneck'."
            )
        tree[section][last] = value
    try:
        return parse(tree)
    except UserError as error:
        raise UserError(f"Trial {trial_name(values)!r} of the sweep cannot work: {error}") from error


def trial_name(values: Json) -> str:
    """A name for what a trial changes, fit for a folder: 'bottleneck=16,lambda_adv=0.01,seed=0', in the order given."""
    return ",".join(f"{short_name(field)}={format_value(value)}" for field, value in values.items()) or "default"


def parse_trial_name(name: str, config: Config) -> Json:
    """What a trial of this name changes, by field, with the values of its configuration."""
    flat = flatten(to_dict(config))
    fields = {short_name(field): field for field in flat}
    found = (fields.get(part.partition("=")[0]) for part in name.split(","))
    return {field: flat[field] for field in found if field}


@functools.cache
def short_name(field: str) -> str:
    """The name of `field` in trials' names, filters and pages: 'seed' for train.seed, 'data.seed' for the other.

    Where several sections have the field, its last part alone means that of `train`, or else of the first one.
    """
    section, _, last = field.partition(".")
    sections = get_type_hints(Config)
    first = next((name for name in ("train", *sections) if last in get_type_hints(sections[name])), None)
    return last if section == first else field


def format_value(value: object) -> str:
    """A value as names, filters and pages write it: 0.01, 16, ball, 32-64-128."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(format_value, value))
    return f"{value:.12g}" if isinstance(value, float) else re.sub(r"[^\w.+-]+", "-", str(value))


def group_trials(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Groups of trials that share their compiled programs (see `config.program_key`), in order of appearance."""
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(program_key(trial.config), []).append(trial)
    return list(groups.values())


def select_trials(trials: Sequence[Trial], names: Sequence[str]) -> list[Trial]:
    """The trials of these names, in the order of `trials`; raises `UserError` if one is not among them."""
    if unknown := sorted(set(names) - {trial.name for trial in trials}):
        raise UserError(f"The sweep has no trial {unknown[0]!r}. There are:\n  " + "\n  ".join(t.name for t in trials))
    return [trial for trial in trials if trial.name in names]


def filter_trials(trials: Sequence[Trial], conditions: str) -> list[Trial]:
    """The trials that meet all of `conditions`, joined by commas: 'bottleneck=16|32,lambda_adv<=0.01,seed=0'.

    Each has a field (as in the trials' names, or in full), one of = != < <= > >=, and a value; after = and != several
    values joined by '|'. A trial that does not change the field has the configuration's value.

    Raises:
      UserError: if a condition cannot be read, names a field that is not swept, or leaves no trial.
    """
    left = list(trials)
    fields = {name: field for trial in trials for field in trial.values for name in (field, short_name(field))}
    for text in filter(None, (part.strip() for part in conditions.split(","))):
        parts = re.fullmatch(r"([\w.]+)\s*(<=|>=|!=|<|>|=)\s*(.+)", text)
        if not parts:
            raise UserError(
                f"--sweep_filter: cannot read {text!r}. Write a condition as bottleneck=16, seed=0|1 or "
                f"lambda_adv<=0.01, and join several by commas."
            )
        name, sign, wanted = parts.groups()
        if name not in fields:
            known = ", ".join(dict.fromkeys(map(short_name, fields.values())))
            raise UserError(f"--sweep_filter: {name!r} is not swept. The trials differ in: {known}.")
        value_of = operator.attrgetter(fields[name])
        left = [trial for trial in left if _is_met(value_of(trial.config), sign, wanted)]
        if not left:
            there = ", ".join(dict.fromkeys(format_value(value_of(trial.config)) for trial in trials))
            raise UserError(f"--sweep_filter: {text!r} leaves no trial. {name} is one of: {there}.")
    return left


def _is_met(value: object, sign: str, wanted: str) -> bool:
    if sign not in _ORDERINGS:
        return any(_is_equal(value, alternative.strip()) for alternative in wanted.split("|")) == (sign == "=")
    try:
        return _ORDERINGS[sign](float(str(value)), float(wanted))
    except ValueError as error:
        message = f"--sweep_filter: {sign!r} needs numbers, not {format_value(value)!r} and {wanted!r}."
        raise UserError(message) from error


def _is_equal(value: object, text: str) -> bool:
    with contextlib.suppress(ValueError):  # not two numbers
        return math.isclose(float(str(value)), float(text), rel_tol=1e-9)
    return text in (format_value(value), str(value))
