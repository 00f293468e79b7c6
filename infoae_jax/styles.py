"""Images of the data set of a finished run, and styles of them: what styles there are, to draw new ones and compare.

Style latents lie in the run folder's `styles.npz`, which is made when first asked for and belongs to one checkpoint.
"""

import dataclasses
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from infoae_jax import data, rendered, runlog
from infoae_jax.errors import UserError

FILE = "styles.npz"
EXAMPLES = 40  # test images to pick from on the page of `infoae demo`
EXPORTED = 512  # styles that go along with an exported model
_MOST = 4096  # training images whose styles are kept
_NEIGHBOURS = 5


class Kept(NamedTuple):
    """Style latents of training images, and the classes of these."""

    z: Float[np.ndarray, "n z"]
    labels: Int[np.ndarray, " n"]


class Nearest(NamedTuple):
    """The `k` nearest of what was searched for each row, nearest first: which, and how far away (Euclidean)."""

    rows: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


def run_data(info: runlog.RunInfo, data_dir: str | None = None, prepare: bool = False) -> data.Splits:
    """The data set of a run, if it is at hand.

    data_dir: where it is, if not where the run found it. prepare: whether TFDS may download and prepare it.

    Raises:
      UserError: if it is not there, or is another one now.
    """
    config = info.config.data if data_dir is None else dataclasses.replace(info.config.data, dir=data_dir)
    splits = data.load(config, prepare=prepare)
    if splits.fingerprint != info.fingerprint:
        raise UserError(
            f"The images of {config.name!r} that are there now ({len(splits.train)} + {len(splits.test)}) are not "
            f"those that the run was trained on ({info.num_train} + {info.num_test})."
        )
    return splits


def example_images(
    info: runlog.RunInfo, count: int, test: data.Dataset | None = None, data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Test images of all classes in turn, and their labels, as many as there are up to `count`.

    Raises:
      UserError: if they are not given as `test`, and the run's data set is not at hand.
    """
    if test is not None:
        images, labels = test.images, test.labels
    elif info.config.data.name == "rendered":  # without drawing all the others
        images, labels, _ = rendered.draw(10 * count, info.config.data.seed, 1)
    else:
        found = run_data(info, data_dir).test
        images, labels = found.images, found.labels
    turn = np.zeros(len(labels), np.int64)  # how many of the class came before each
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    rows = np.lexsort((labels, turn))[:count]
    return images[rows], labels[rows].astype(np.int32)


def of_run(run: Path, step: int, encode: Callable[..., np.ndarray], data_dir: str | None = None) -> Kept:
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
    info = runlog.read_info(run)
    try:
        splits = run_data(info, data_dir)
    except UserError as error:
        raise UserError(
            f"The styles of training images are not yet kept with {str(run)!r}, and its data set is not at hand to "
            f"make them: {error}"
        ) from error
    rows = np.random.default_rng(0).permutation(len(splits.train))[:_MOST]
    labels = splits.train.labels[rows].astype(np.int32)
    kept = Kept(encode(splits.train.images[rows], labels), labels)
    buffer = io.BytesIO()
    np.savez(buffer, step=step, z=kept.z, labels=kept.labels)
    try:
        runlog.write_atomically(run / FILE, buffer.getvalue())
    except OSError as error:  # somebody else's run; it can be used all the same
        warnings.warn(f"The styles of training images could not be kept in {run} ({error}).", stacklevel=2)
    return kept


def _read(path: Path, step: int) -> Kept | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if int(archive["step"]) != step:
                return None
            return Kept(archive["z"].astype(np.float32), archive["labels"].astype(np.int32))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # made again
        return None


def nearest(z: Float[np.ndarray, "n z"], among: Float[np.ndarray, "m z"], k: int = 5) -> Nearest:
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
    return Nearest(np.concatenate(rows), np.concatenate(distances).astype(np.float32))


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


def between(a: Float[np.ndarray, " z"], b: Float[np.ndarray, " z"], steps: int) -> Float[np.ndarray, "steps z"]:
    """Evenly spaced latents on the straight way from `a` to `b`, both included."""
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    return (1 - share) * a[None] + share * b[None]
