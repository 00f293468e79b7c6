"""Labelled images as arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images of one size; `factors` holds known style factors by name (rendered only)."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


class Splits(NamedTuple):
    """`fingerprint` identifies the data: by their pixels and labels, or by all that a drawing is made from."""

    train: Dataset
    test: Dataset
    fingerprint: str


Source = tuple[dict[str, Any], Callable[[], tuple[Dataset, Dataset]]]
