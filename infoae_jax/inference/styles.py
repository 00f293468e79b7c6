"""Style latents of training images: kept with the run, searched for neighbours, and sampled from.

A run's bank of them is `styles.npz` in its folder. It belongs to one checkpoint and is made on first use.
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from infoae_jax.arrays import read_arrays
from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.runs.folder import read_info

Encode: TypeAlias = Callable[..., np.ndarray]  # (images, labels) -> latents
STYLE_BANK_FILE = "styles.npz"
MAX_LATENTS = 4096  # in a bank
NUM_EXPORTED_LATENTS = 512  # latents that go along with an exported model


class StyleBank(NamedTuple):
    """Style latents of training images, and the classes of these images."""

    z: Float[np.ndarray, "n z"]
    labels: Int[np.ndarray, " n"]


class Neighbours(NamedTuple):
    """The `k` nearest rows for each query, nearest first, and their Euclidean distances."""

    rows: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def checked_bank(z: np.ndarray, labels: np.ndarray, size: int, num_classes: int) -> StyleBank:
    """A bank as it was read; `ValueError` unless it fits a model with latents of `size`."""
    fits = z.ndim == 2 and 0 < len(z) <= MAX_LATENTS and z.shape[1] == size and labels.shape == z.shape[:1]
    if not (fits and np.isfinite(z).all() and np.isin(labels, np.arange(num_classes)).all()):
        raise ValueError(f"style latents {z.dtype}{list(z.shape)} with their classes do not fit its model")
    return StyleBank(z.astype(np.float32), labels.astype(np.int32))


def load_style_bank(run: Path, step: int, encode: Encode, data_dir: str | None = None) -> StyleBank:
    """The style bank of a run folder, made and kept there if it is missing, damaged or not of the checkpoint of `step`.

    Raises:
      UserError: if the bank must be made but the run's data set cannot be found.
    """
    path, info = run / STYLE_BANK_FILE, read_info(run)
    with contextlib.suppress(Exception):  # damage leads to many kinds
        if path.is_file() and int((arrays := read_arrays(path))["step"]) == step:
            return checked_bank(arrays["z"], arrays["labels"], info.config.model.bottleneck, len(info.class_names))
    try:
        train = load_run_data(info, data_dir).train
    except UserError as error:
        raise UserError(f"{str(run)!r} has no style latents yet, and no data set to compute them: {error}") from error
    rows = np.random.default_rng(0).permutation(len(train))[:MAX_LATENTS]
    labels = train.labels[rows].astype(np.int32)
    bank = StyleBank(encode(train.images[rows], labels), labels)
    buffer = io.BytesIO()
    np.savez(buffer, step=step, z=bank.z, labels=bank.labels)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:  # for example in somebody else's run, which can be used all the same
        warnings.warn(f"The style latents of training images cannot be kept in {run} ({error}).", stacklevel=2)
    return bank


def nearest(z: Float[np.ndarray, "n z"], among: Float[np.ndarray, "m z"], k: int = 5) -> Neighbours:
    """The `k` rows of `among`, at least 1, nearest to each latent of `z`; of equally distant rows the first."""
    if not 1 <= k <= len(among):
        raise UserError(f"k is {k}, but must be from 1 to {len(among)}, the number of latents to search.")
    # scikit-learn takes a second to import. Its NearestNeighbors returns equally distant rows in any order.
    from sklearn.metrics import pairwise_distances_chunked

    def first(distances: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
        return rows, np.take_along_axis(distances, rows, axis=1).astype(np.float32)

    chunks = pairwise_distances_chunked(z.astype(np.float64), among.astype(np.float64), reduce_func=first)
    rows, distances = zip(*chunks, strict=True)
    return Neighbours(np.concatenate(rows), np.concatenate(distances))


def resample(z: Float[np.ndarray, "m z"], count: int, seed: int = 0) -> Float[np.ndarray, "count z"]:
    """New latents, at least 1, each between a random one of `z` and one of its 5 nearest neighbours.

    SMOTE makes examples in this way (Chawla et al. 2002). Unlike latents with noise on each dimension, they stay where
    latents are.
    """
    if count < 1:
        raise UserError(f"count is {count}, but must be at least 1.")
    rng = np.random.default_rng(seed)
    start = rng.integers(0, len(z), count)
    k = min(6, len(z))  # the latent itself and 5 neighbours
    column = rng.integers(min(1, k - 1), k, count)  # column 0 is the latent itself
    towards = nearest(z[start], z, k).rows[np.arange(count), column]
    share = rng.random((count, 1), np.float32)
    return z[start] + share * (z[towards] - z[start])
