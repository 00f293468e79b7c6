"""Evaluation protocols, and the files that hold their results."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, Required, TypeAlias, TypedDict

from msgspec import Meta

from infoae_jax.errors import UserError
from infoae_jax.files import read_json
from infoae_jax.runs.provenance import Environment

FORMAT = 4
GROUNDS = "background", "foreground"  # whose colours are measured
_AGAIN = "Move it away and evaluate the run again."

Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1 + 1e-9)]  # means may be rounded up
Number: TypeAlias = Annotated[float, Meta(ge=-1e15, le=1e15)] | None  # None: undefined, as JSON has no NaN


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much is measured. Figures of different protocols are not comparable."""

    name: Literal["full", "quick"]
    train_codes: int  # maximum number of training images whose codes are probed
    test_images: int  # maximum number
    swaps: int  # maximum number that are judged
    probe_epochs: int


FULL = Protocol("full", train_codes=60_000, test_images=30_000, swaps=250_000, probe_epochs=30)
QUICK = Protocol("quick", train_codes=10_000, test_images=1_500, swaps=15_000, probe_epochs=12)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (FULL, QUICK)}


# What the functions of these names in `metrics.py` return.
class Leakage(TypedDict, total=False):
    probe_accuracy: Share
    best_probe: str
    protocol: str
    chance: Share
    training_codes_accuracy: Share
    information_bits: Number
    entropy_bits: Number
    groups: Count
    highest: dict[str, Share]
    interval: dict[str, Annotated[list[Share], Meta(min_length=2, max_length=2)]]
    fitted_on_training_codes: dict[str, Share]
    folds_by_group: dict[str, Share]
    folds_at_random: dict[str, Share]
    split_of_training_codes: dict[str, Share]


class Quality(TypedDict, total=False):
    mse: Number
    psnr: Number
    ssim: Number


class Reconstruction(Quality, total=False):
    mse_increase_with_other_latent: Number


class Counterfactual(Quality, total=False):
    best_psnr: Number


class Content(TypedDict, total=False):
    content_accuracy: Share


class Transfer(TypedDict, total=False):
    transfer_accuracy: Share
    by_judge: list[Share]
    by_class: list[Share]
    confusion: list[list[Share]]
    swaps: Count
    judge_accuracy: list[Share]
    judge_threshold: Share


class Style(TypedDict, total=False):
    correlation: dict[str, Number]
    ceiling: dict[str, Number]
    swaps: Count
    swaps_without_stroke: Count
    colour_error: dict[str, dict[str, dict[str, Number]]]


class Composition(TypedDict, total=False):
    l1_after_1: Number
    l1_after_10: Number
    accuracy_after_10: Share


class Reversibility(TypedDict, total=False):
    mse: Number
    r2: Number
    blurred_mse: Number
    blurred_r2: Number


class Realism(TypedDict, total=False):
    frechet_distance: Number
    frechet_distance_real_images: Number
    frechet_distance_reconstructions: Number
    precision: Share
    recall: Share
    images: Count


class Figures(TypedDict, total=False):
    """What was measured; some of it makes no sense for every data set."""

    leakage: Leakage
    reconstruction: Reconstruction
    content: Content
    transfer: Transfer
    style: Style
    counterfactual: Counterfactual
    composition: Composition
    reversibility: Reversibility
    realism: Realism


class Cost(TypedDict, total=False):
    """What the evaluation took; seconds are wall time."""

    device: str
    preparation_s: Number
    evaluation_s: Number
    by_figure_s: dict[str, Number]
    parameters: Count
    training_images_per_s: Number
    encode_images_per_s: Number
    decode_images_per_s: Number


class Data(TypedDict):
    """The data set, and its numbers of images."""

    name: str
    train: Count
    test: Count


class ProtocolRecord(TypedDict, total=False):
    """A `Protocol`."""

    name: Required[Literal["full", "quick"]]
    train_codes: Count
    test_images: Count
    swaps: Count
    probe_epochs: Count


class Record(TypedDict):
    """The content of an evaluation's file."""

    format: int
    protocol: ProtocolRecord
    step: Count
    data: Data
    class_names: list[str]
    bottleneck: Count
    figures: Figures
    left_out: dict[str, str]  # by figure, why
    untrusted: list[str]  # figures whose judges are below their threshold
    environment: Environment
    cost: Cost


class _Format(TypedDict):
    format: object


def file_name(protocol: Protocol) -> str:
    """The name of the file in a run's folder that holds its evaluation by `protocol`."""
    return "evaluation.json" if protocol.name == "full" else f"evaluation_{protocol.name}.json"


def read_evaluation(run: str | Path, protocol: Protocol | None = None) -> Record | None:
    """Reads what `measure.evaluate_run` wrote into the folder of a run, None if it wrote no such file.

    Args:
      protocol: the full one by default, or else the quick one.

    Raises:
      UserError: if the file is damaged or has another format.
    """
    names = [file_name(wanted) for wanted in ((protocol,) if protocol else PROTOCOLS.values())]
    path = next((Path(run) / name for name in names if (Path(run) / name).exists()), None)
    if path is None:
        return None
    if (found := read_json(path, _Format, _AGAIN)["format"]) != FORMAT:
        raise UserError(f"{str(path)!r} has format {found}, but only {FORMAT} can be read. {_AGAIN}")
    record = read_json(path, Record, _AGAIN)
    by_class = record["figures"].get("transfer", {}).get("by_class", record["class_names"])
    if len(by_class) != len(record["class_names"]):
        raise UserError(f"{str(path)!r} is damaged ({len(by_class)} accuracies by class are too many or few). {_AGAIN}")
    return record
