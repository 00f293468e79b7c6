"""Typed, checked, immutable configuration; `configs/base.py` has the defaults and a comment on each field."""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from infoae_jax.errors import UserError
from infoae_jax.types import Json

MIN_SIDE, MAX_SIDE = 8, 512  # of an image, in pixels
MAX_SHOWN = 100  # characters of a value in an error
MAX_COUNT = 2**31 - 1  # of images or steps, which are numbered in 32 bits
Latent: TypeAlias = Literal["unbounded", "sphere", "ball"]
ContentKind: TypeAlias = Literal["shallow", "deep"]
DecoderKind: TypeAlias = Literal["dcec", "literal"]
Dtype: TypeAlias = Literal["float32", "bfloat16"]


def _range(low: float, high: float, *, above: bool = False, traced: bool = False) -> Any:
    """A field whose value (or each of whose elements) lies in [low, high], or in (low, high] if `above`.

    A `traced` field is an argument of the compiled programs. Type checkers take this for a default: hence `kw_only`.
    """
    return dataclasses.field(metadata={"low": low, "high": high, "above": above, "traced": traced})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: str
    dir: str
    cache_dir: str
    split: str
    test_split: str
    image_size: int = _range(0, MAX_SIDE)
    channels: Literal[0, 1, 3]
    num_train: int = _range(0, 10_000_000)
    num_test: int = _range(0, 10_000_000)
    test_fraction: float = _range(0, 0.9, above=True)
    seed: int = _range(0, 2**32 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    bottleneck: int = _range(1, 4096)
    latent: Latent
    hidden: int = _range(1, 65536)
    filters: tuple[int, ...] = _range(1, 4096)
    leak: float = _range(0, 1)
    decoder: DecoderKind
    adversary_hidden: int = _range(1, 65536)
    couplings: int = _range(0, 1000)
    coupling_hidden: int = _range(1, 65536)
    reference_couplings: int = _range(0, 1000)
    content: ContentKind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    epochs: int = _range(1, 1_000_000)
    batch_size: int = _range(1, 1_000_000)
    learning_rate: float = _range(0, 1, above=True, traced=True)
    learning_rate_schedule: Literal["constant", "cosine", "warmup_cosine"]
    chroma_weight: float = _range(0, 1e6)
    cycle_weight: float = _range(0, 1e6)
    swap_weight: float = _range(0, 1e6)
    standardise: bool
    view_share: float = _range(0, 1)
    shift: int = _range(0, 4)
    augment: Literal["classifier", "all"]
    lambda_adv: float = _range(0, 1e6, traced=True)
    lambda_schedule: Literal["constant", "linear"]
    lambda_ramp: float = _range(0, 1, above=True, traced=True)
    adversary_steps: int = _range(1, 100)
    seed: int = _range(0, 2**32 - 1, traced=True)
    dtype: Dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    epochs: int = _range(1, 1_000_000)
    batch_size: int = _range(1, 1_000_000)
    views: int = _range(0, 1000)
    views_share: float = _range(0, 1, traced=True)
    match_views: bool
    learning_rate: float = _range(0, 1, above=True, traced=True)
    weight_decay: float = _range(0, 100, traced=True)
    distance_weight: float = _range(0, 1e6, traced=True)
    style_weight: float = _range(0, 1e6, traced=True)
    lambda_adv: float = _range(0, 1e6, traced=True)


@dataclasses.dataclass(frozen=True)
class RefineConfig:
    epochs: int = _range(0, 1_000_000)
    learning_rate: float = _range(0, 1, above=True, traced=True)
    chroma_weight: float = _range(0, 1e6)
    style_weight: float = _range(0, 1e6, traced=True)
    cycle_weight: float = _range(0, 1e6)
    swap_weight: float = _range(0, 1e6, traced=True)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    tensorboard: bool
    every_steps: int = _range(1, MAX_COUNT)
    sample_epochs: tuple[int, ...] = _range(0, MAX_COUNT)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_seconds: float = _range(0, 1e9)
    keep: int = _range(2, 1000)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    at_end: Literal["no", "quick", "full"]


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


# Fields that a resumed run may change, as they do not change its result.
FREE_ON_RESUME = "data.dir", "data.cache_dir", "log", "checkpoint", "evaluate"
Section: TypeAlias = TrainConfig | AlignmentConfig | RefineConfig  # the settings of a phase


@dataclasses.dataclass(frozen=True)
class Static:
    """The settings of a phase that its program is compiled for, as attributes: all that are not traced."""

    items: tuple[tuple[str, object], ...]

    def __getattr__(self, name: str) -> Any:
        if name in (found := dict(object.__getattribute__(self, "items"))):
            return found[name]
        raise AttributeError(f"{name!r} is no setting that a program is compiled for: traced ones are in `Hyper`.")


def split_settings(section: Section) -> tuple[Static, dict[str, float]]:
    """Those of a phase that its program is compiled for, and those that it takes as arguments."""
    values = {field: getattr(section, field.name) for field in dataclasses.fields(section)}
    static = tuple((f.name, value) for f, value in values.items() if not f.metadata.get("traced"))
    return Static(static), {f.name: value for f, value in values.items() if f.metadata.get("traced")}


def parse(values: Mapping[str, object] | ConfigDict) -> Config:
    """The configuration from a `ConfigDict` of `configs/*.py` or the result of `to_dict`, its values all checked.

    Raises:
      UserError: naming the field, its value, and what is allowed.
    """
    config: Config = _parse_section(Config, values, "config")
    _check_combinations(config)
    return config


def to_dict(config: Config) -> Json:
    """Nested plain dict; `parse(to_dict(config)) == config`, also after a round trip through JSON."""
    return dataclasses.asdict(config)


def differences(old: Config, new: Config) -> list[str]:
    """Fields that make `new` a different experiment from `old`, each as 'field: old -> new'."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    return [f"{k}: {a[k]!r} -> {b[k]!r}" for k in a if a[k] != b[k] and not k.startswith(FREE_ON_RESUME)]


def program_key(config: Config) -> tuple[object, ...]:
    """What decides the compiled programs, the loop around them, and the images: equal for runs that share these."""
    sections = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "evaluate"}
    return tuple(
        getattr(section, f.name)
        for name, section in sections.items()
        for f in dataclasses.fields(section)
        if not f.metadata.get("traced") and f"{name}.{f.name}" != "data.cache_dir"
    )


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless the network can encode and decode images of `shape` (height, width, channels)."""
    for side in shape[:2]:
        if side % 4 or not MIN_SIDE <= side <= MAX_SIDE:
            advised = min(max(round(side / 4) * 4, MIN_SIDE), MAX_SIDE)
            raise UserError(
                f"Images of {shape[0]}x{shape[1]} pixels are not supported: each side must be a multiple of 4 from "
                f"{MIN_SIDE} to {MAX_SIDE}. Resize them, for instance with --config.data.image_size={advised}."
            )


def flatten(tree: Mapping[str, object], prefix: str = "") -> Json:
    """Values by dotted name: 'train.lambda_adv'."""
    flat: Json = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _parse_section(cls: type[Any], values: Any, path: str) -> Any:
    if not hasattr(values, "keys"):
        raise UserError(f"{path} is {_show(values)}, but must be a section with fields.")
    hints, fields = get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values.keys()) - set(fields)):
        raise UserError(f"{path}.{unknown[0]} does not exist. {path} has the fields {', '.join(fields)}.")
    if missing := [name for name in fields if name not in values]:
        raise UserError(f"{path}.{missing[0]} is missing. Set it; configs/base.py has a default for every field.")
    return cls(**{n: _parse_value(f"{path}.{n}", values[n], hints[n], f.metadata) for n, f in fields.items()})


def _parse_value(path: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _parse_section(hint, value, path)
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if not isinstance(value, tuple | list):
            raise UserError(
                f"{path} is {_show(value)}, but must be a list, each element {_describe(element, (), limits)}."
            )
        return tuple(_parse_value(f"{path}[{i}]", v, element, limits) for i, v in enumerate(value))
    options = get_args(hint)  # of a Literal
    kind = type(options[0]) if options else hint
    if not (
        isinstance(value, int | float if kind is float else kind)
        and isinstance(value, bool) == (kind is bool)
        and (not options or value in options)
        and (not limits or limits["low"] <= value <= limits["high"])
        and not (limits and limits["above"] and value == limits["low"])
    ):
        raise UserError(f"{path} is {_show(value)}, but must be {_describe(kind, options, limits)}.")
    return float(value) if kind is float else value


def _show(value: object) -> str:
    """A value as errors name it, shortened."""
    with contextlib.suppress(ValueError):  # Python writes no integers of thousands of digits
        text = repr(value)
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return "an integer of thousands of digits"


def _describe(kind: type, options: tuple[object, ...], limits: Mapping[str, Any]) -> str:
    if options:
        return f"{', '.join(map(repr, options[:-1]))} or {options[-1]!r}"
    noun = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}[kind]
    if not limits:
        return noun
    low, high = f"{limits['low']:g}", f"{limits['high']:.12g}"
    if limits["above"]:
        return f"{noun} above {low} and at most {high}"
    return f"{noun} from {low} to {high}"


def _check_combinations(config: Config) -> None:
    data, model = config.data, config.model
    if not data.name:
        raise UserError("config.data.name is empty, but must be 'rendered', 'folder', or the name of a TFDS data set.")
    if len(model.filters) != 3:
        raise UserError(
            f"config.model.filters is {_show(model.filters)}, but must have 3 entries, one for each convolution."
        )
    if model.bottleneck < 2 and model.couplings:
        raise UserError(
            "config.model.bottleneck is 1, but an alignment needs at least 2. Raise it, or use "
            "--config.model.couplings=0."
        )
    if data.image_size:
        check_image_shape((data.image_size, data.image_size, data.channels))
    if data.name == "rendered":
        if not data.num_train or not data.num_test:
            raise UserError("config.data.num_train and num_test must not be 0: 'rendered' renders that many images.")
        if data.image_size not in (0, 32) or data.channels not in (0, 3):
            raise UserError(
                f"config.data.image_size is {data.image_size} and data.channels {data.channels}, but 'rendered' is "
                f"32x32 RGB. Leave both at 0."
            )
    if data.name == "folder":
        if not data.dir:
            raise UserError("config.data.dir is empty. Name your image folder: --config.data.dir=path/to/images.")
        if not data.channels:
            raise UserError("config.data.channels is 0, but image folders need 1 (grey) or 3 (RGB).")
    elif not data.split or not data.test_split:
        raise UserError("config.data.split and test_split must not be empty: name splits, such as 'train' and 'test'.")
