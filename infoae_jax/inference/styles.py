"""Images of the data set of a finished run, and styles of them: what styles there are, to draw new ones and compare.

Style latents lie in the run folder's `styles.npz`, which is made when first asked for and belongs to one checkpoint.
"""

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.runs.folder import read_info

FILE = "styles.npz"
NUM_EXPORTED = 512  # styles that go along with an exported model
_MOST = 4096  # training images whose styles are kept
_NEIGHBOURS = 5


class StyleBank(NamedTuple):
    """Style latents of training images, and the classes of these."""

    z: Float[np.ndarray, "n z"]
    labels: Int[np.ndarray, " n"]


class Neighbours(NamedTuple):
    """The `k` nearest of what was searched for each row, nearest first: which, and how far away (Euclidean)."""

    rows: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def load_style_bank(run: Path, step: int, encode: Callable[..., np.ndarray], data_dir: str | None = None) -> StyleBank:
    """Reads `styles.npz`, or makes it if it is missing, damaged, or of another checkpoint than that of `step`.

    Args:
      encode: (images, labels) -> latents.
      data_dir: as in `run_data`.

    Raises:
      UserError: if they must be made, but the run's data set is not at hand.
    """
    kept = _read(run / FILE, step)
    if kept is not None:
        return kept
    info = read_info(run)
    try:
        splits = load_run_data(info, data_dir)
    except UserError as error:
        raise UserError(
            f"The styles of training images are not yet kept with {str(run)!r}, and its data set is not at hand to "
            f"make them: {error}"
        ) from error
    rows = np.random.default_rng(0).permutation(len(splits.train))[:_MOST]
    labels = splits.train.labels[rows].astype(np.int32)
    kept = StyleBank(encode(splits.train.images[rows], labels), labels)
    buffer = io.BytesIO()
    np.savez(buffer, step=step, z=kept.z, labels=kept.labels)
    try:
        write_atomically(run / FILE, buffer.getvalue())
    except OSError as error:  # somebody else's run; it can be used all the same
        warnings.warn(f"The styles of training images could not be kept in {run} ({error}).", stacklevel=2)
    return kept


def _read(path: Path, step: int) -> StyleBank | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if int(archive["step"]) != step:
                return None
            return StyleBank(archive["z"].astype(np.float32), archive["labels"].astype(np.int32))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # made again
        return None


def nearest(z: Float[np.ndarray, "n z"], among: Float[np.ndarray, "m z"], k: int = 5) -> Neighbours:
    """For each latent of `z` the `k` nearest rows of `among`, by Euclidean distance.

    Raises:
      UserError: if `among` has fewer rows than `k`.
    """
    if not 1 <= k <= len(among):
        raise UserError(f"k is {k}, but must be from 1 to {len(among)}, the number of styles to search.")
    rows, distances = [], []
    for start in range(0, len(z), 1024):  # bounds the memory
        part = z[start : start + 1024].astype(np.float64)
        squares = (
            (part**2).sum(1)[:, None] - 2 * part @ among.T.astype(np.float64) + (among.astype(np.float64) ** 2).sum(1)
        )
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        rows.append(order)
        distances.append(np.sqrt(np.maximum(np.take_along_axis(squares, order, 1), 0)))
    return Neighbours(np.concatenate(rows), np.concatenate(distances).astype(np.float32))


def resample(z: Float[np.ndarray, "m z"], count: int, seed: int = 0) -> Float[np.ndarray, "count z"]:
    """New styles like those of `z`: from a random one, a random share of the way to one of its 5 nearest neighbours.

    That is how SMOTE makes examples (Chawla et al. 2002). Unlike noise on each dimension, it stays where styles are.

    Raises:
      UserError: if `count` is less than 1.
    """
    if count < 1:
        raise UserError(f"count is {count}, but must be 1 or more.")
    rng = np.random.default_rng(seed)
    start = rng.integers(0, len(z), count)
    k = min(_NEIGHBOURS + 1, len(z))
    towards = nearest(z[start], z, k).rows[np.arange(count), rng.integers(min(1, k - 1), k, count)]  # 0 is itself
    share = rng.random((count, 1), np.float32)
    return z[start] + share * (z[towards] - z[start])


def interpolate_latents(
    a: Float[np.ndarray, " z"], b: Float[np.ndarray, " z"], steps: int
) -> Float[np.ndarray, "steps z"]:
    """Evenly spaced latents on the straight way from `a` to `b`, both included."""
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    return (1 - share) * a[None] + share * b[None]
