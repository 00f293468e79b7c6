"""The types of data sets: labelled images, their two splits, and where they come from."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from infoae_jax.types import Json


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images of one size; `factors` holds what each was rendered from, by name (rendered data set only)."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Int[np.ndarray, " rows"]) -> "Dataset":
        factors = {name: values[rows] for name, values in self.factors.items()}
        return Dataset(self.images[rows], self.labels[rows], self.class_names, factors)


class Splits(NamedTuple):
    """Images for training and for testing; equal fingerprints mean equal images and labels."""

    train: Dataset
    test: Dataset
    fingerprint: str


class Source(NamedTuple):
    """A data set before its images are decoded."""

    key: Json  # what the images depend on, as far as that is cheap to find out; if it changes, the cache is void
    decode: Callable[[], Iterable[Dataset]]  # gives the images for training, then those for testing
    fingerprint: str | None = None  # identifies the data; None if their content does


def content_hash(*splits: Dataset) -> str:
    """The SHA-256 of all pixels, labels and class names."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.images.shape} {split.class_names}".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, np.int32).data)
    return digest.hexdigest()
