"""Typed, checked, immutable configuration.

A `ConfigDict` from `configs/*.py` (with command-line overrides applied) crosses into these dataclasses once, in
`parse`; everything behind it can rely on the ranges stated here. No defaults live here: those, with a comment for
each knob, are in `configs/base.py`.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from infoae_jax.errors import UserError

MIN_SIDE, MAX_SIDE = 8, 512


def _range(low: float, high: float = math.inf, *, above: bool = False) -> Any:
    """A field whose value (or each of whose elements) lies in [low, high], or in (low, high] if `above`."""
    return dataclasses.field(metadata={"low": low, "high": high, "above": above})


def _choice(*options: Any) -> Any:
    return dataclasses.field(metadata={"options": options})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    name: str
    dir: str
    cache_dir: str
    split: str
    test_split: str
    image_size: int = _range(0, MAX_SIDE)
    channels: int = _choice(0, 1, 3)
    num_train: int = _range(0)
    num_test: int = _range(0)
    test_fraction: float = _range(0, 0.9, above=True)
    seed: int = _range(0, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    bottleneck: int = _range(1, 4096)
    latent: str = _choice("unbounded", "sphere", "ball")
    hidden: int = _range(1, 65536)
    filters: tuple[int, ...] = _range(1, 4096)
    decoder: str = _choice("dcec", "literal")
    adversary_hidden: int = _range(1, 65536)
    couplings: int = _range(0, 1000)
    coupling_hidden: int = _range(1, 65536)
    reference_couplings: int = _range(0, 1000)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    epochs: int = _range(1, 1_000_000)
    batch_size: int = _range(1, 1_000_000)
    learning_rate: float = _range(0, 1, above=True)
    learning_rate_schedule: str = _choice("constant", "cosine", "warmup_cosine")
    cycle_weight: float = _range(0, 1e6)
    content_shift: int = _range(0, 4)
    lambda_adv: float = _range(0, 1e6)
    lambda_schedule: str = _choice("constant", "linear")
    lambda_ramp: float = _range(0, 1, above=True)
    adversary_steps: int = _range(1, 100)
    seed: int = _range(0, 2**32 - 1)
    data_on: str = _choice("auto", "device", "host")
    steps_per_call: int = _range(1, 10_000)
    dtype: str = _choice("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    epochs: int = _range(1, 1_000_000)
    batch_size: int = _range(1, 1_000_000)
    learning_rate: float = _range(0, 1, above=True)
    style_weight: float = _range(0, 1e6)
    lambda_adv: float = _range(0, 1e6)


@dataclasses.dataclass(frozen=True)
class RefineConfig:
    epochs: int = _range(0, 1_000_000)
    learning_rate: float = _range(0, 1, above=True)
    style_weight: float = _range(0, 1e6)
    cycle_weight: float = _range(0, 1e6)
    content_weight: float = _range(0, 1e6)
    content_noise: float = _range(0, 1)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    tensorboard: bool
    every_steps: int = _range(1)
    sample_epochs: tuple[int, ...] = _range(0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = _range(0)
    keep: int = _range(2, 1000)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    at_end: str = _choice("no", "quick", "full")


@dataclasses.dataclass(frozen=True)
class Config:
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    alignment: AlignmentConfig
    refine: RefineConfig
    log: LogConfig
    checkpoint: CheckpointConfig
    evaluate: EvaluateConfig


# Fields that may differ between the two halves of a resumed run, because they cannot change its result (but for the
# rounding of another program: `data_on`, `steps_per_call`).
FREE_ON_RESUME = (
    "data.dir",
    "data.cache_dir",
    "train.data_on",
    "train.steps_per_call",
    "log.",
    "checkpoint.",
    "evaluate.",
)
# Fields that are arguments of the compiled programs: runs that differ in nothing else share them.
TRACED = (
    "train.seed",
    "train.learning_rate",
    "train.lambda_adv",
    "train.lambda_ramp",
    "alignment.learning_rate",
    "alignment.style_weight",
    "alignment.lambda_adv",
    "refine.learning_rate",
    "refine.style_weight",
    "refine.cycle_weight",
    "refine.content_weight",
    "refine.content_noise",
)


def parse(values: Mapping[str, Any] | ConfigDict) -> Config:
    """Checks every value and combination.

    Args:
      values: what `configs/*.py` gave, or `to_dict`; nested, with exactly the fields above.

    Raises:
      UserError: naming the field, its value, and what is allowed.
    """
    config: Config = _parse_section(Config, values, "")
    _check_combinations(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain dict; `parse(to_dict(config)) == config`, also after a round trip through JSON."""
    return dataclasses.asdict(config)


def differences(old: Config, new: Config) -> list[str]:
    """Fields that make `new` another experiment than `old`, each as 'field: old -> new'."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return [f"{k}: {a[k]!r} -> {b[k]!r}" for k in a if a[k] != b[k] and not k.startswith(FREE_ON_RESUME)]


def program_key(config: Config) -> tuple[Any, ...]:
    """All that decides the compiled programs, the loop around them, and the images: equal for runs that share these."""
    flat = flatten(to_dict(config))
    others = (*TRACED, "data.cache_dir")
    return tuple(flat[name] for name in flat if name not in others and not name.startswith("evaluate."))


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless the network can encode and redraw images of `shape` (height, width, channels)."""
    for side in shape[:2]:
        if side % 4 or not MIN_SIDE <= side <= MAX_SIDE:
            raise UserError(
                f"Images of {shape[0]}x{shape[1]} pixels are not supported: each side must be a multiple of 4 from "
                f"{MIN_SIDE} to {MAX_SIDE}. Let them be resized, for instance with --config.data.image_size="
                f"{min(max(round(side / 4) * 4, MIN_SIDE), MAX_SIDE)}."
            )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name: 'train.lambda_adv'."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _parse_section(cls: type, values: Any, prefix: str) -> Any:
    if not hasattr(values, "keys"):
        raise UserError(
            f"{('config.' + prefix).rstrip('.')} is {values!r}, but must be a section with fields of its own."
        )
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values.keys()) - set(fields))
    if unknown:
        raise UserError(f"config.{prefix}{unknown[0]} does not exist. Known here: {', '.join(fields)}.")
    parsed = {}
    for name, field in fields.items():
        path = f"{prefix}{name}"
        if name not in values:
            raise UserError(f"config.{path} is missing.")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            parsed[name] = _parse_section(hint, values[name], f"{path}.")  # type: ignore[arg-type]
        else:
            parsed[name] = _parse_value(path, values[name], hint, field.metadata)
    return cls(**parsed)


def _parse_value(path: str, value: Any, hint: Any, rule: types.MappingProxyType[Any, Any]) -> Any:
    allowed = _describe(hint, rule)
    if get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"config.{path} is {value!r}, but must be a list of values, each {allowed}.")
        return tuple(_parse_value(f"{path}[{i}]", v, get_args(hint)[0], rule) for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    good = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if good and "options" in rule:
        good = value in rule["options"]
    if good and "low" in rule:
        good = math.isfinite(value) and rule["low"] <= value <= rule["high"]
        good = good and not (rule["above"] and value == rule["low"])
    if not good:
        raise UserError(f"config.{path} is {value!r}, but must be {allowed}.")
    return value


def _describe(hint: Any, rule: types.MappingProxyType[Any, Any]) -> str:
    if "options" in rule:
        return " or ".join(repr(o) for o in rule["options"])
    kind = get_args(hint)[0] if get_origin(hint) is tuple else hint
    noun = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}[kind]
    if "low" not in rule:
        return noun
    low = f"above {rule['low']:g}" if rule["above"] else f"{rule['low']:g} or more"
    return f"{noun}, {low}" + ("" if rule["high"] == math.inf else f" and at most {rule['high']:.12g}")


def _check_combinations(config: Config) -> None:
    data, model = config.data, config.model
    if not data.name:
        raise UserError("config.data.name is empty, but must be 'rendered', 'folder', or the name of a TFDS data set.")
    if len(model.filters) != 3:
        raise UserError(f"config.model.filters is {model.filters}, but must have 3 entries, one for each convolution.")
    if model.latent == "sphere" and model.bottleneck < 2:
        raise UserError(
            "config.model.bottleneck is 1, but model.latent='sphere' needs 2 or more (a sphere in one dimension is "
            "two points). Raise it, or use --config.model.latent=ball."
        )
    if model.couplings and model.bottleneck < 2:
        raise UserError(
            "config.model.bottleneck is 1, but alignment (model.couplings) splits the latent in two. Raise it, or use "
            "--config.model.couplings=0."
        )
    calls = config.train.steps_per_call
    for name, period in (("log", config.log.every_steps), ("checkpoint", config.checkpoint.every_steps)):
        if period and calls > period:
            raise UserError(
                f"config.train.steps_per_call is {calls}, but config.{name}.every_steps is {period}: no call may go "
                f"beyond it. Make the former smaller or the latter larger."
            )
    if data.image_size:
        check_image_shape((data.image_size, data.image_size, data.channels))
    if data.name == "rendered":
        if not data.num_train or not data.num_test:
            raise UserError("config.data.num_train and num_test must be 1 or more for 'rendered': it draws that many.")
        if data.image_size not in (0, 32) or data.channels not in (0, 3):
            raise UserError(
                f"config.data.image_size is {data.image_size} and channels {data.channels}, but 'rendered' is 32x32 "
                f"RGB: leave both at 0."
            )
    if data.name == "folder":
        if not data.dir:
            raise UserError(
                "config.data.dir is empty. Say where your images are (one folder for each class), for instance "
                "--config.data.dir=path/to/images."
            )
        if not data.channels:
            raise UserError("config.data.channels is 0, but image folders need 1 (grey) or 3 (RGB).")
    elif not data.split or not data.test_split:
        raise UserError("config.data.split and data.test_split must name splits, for instance 'train' and 'test'.")
