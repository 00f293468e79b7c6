"""The data set of a finished run."""

import dataclasses

import numpy as np

from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import generate
from infoae_jax.errors import UserError
from infoae_jax.runs.folder import RunInfo

NUM_EXAMPLES = 40  # test images to pick from on the page of `infoae demo`


def load_run_data(info: RunInfo, data_dir: str | None = None, prepare: bool = False) -> Splits:
    """The data set of a run, if it is at hand.

    data_dir: where it is, if not where the run found it. prepare: whether TFDS may download and prepare it.

    Raises:
      UserError: if it is not there, or is another one now.
    """
    config = info.config.data if data_dir is None else dataclasses.replace(info.config.data, dir=data_dir)
    splits = load_splits(config, prepare=prepare)
    if splits.fingerprint != info.fingerprint:
        raise UserError(
            f"The images of {config.name!r} that are there now ({len(splits.train)} + {len(splits.test)}) are not "
            f"those that the run was trained on ({info.num_train} + {info.num_test})."
        )
    return splits


def example_images(
    info: RunInfo, count: int, test: Dataset | None = None, data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Test images of all classes in turn, and their labels, as many as there are up to `count`.

    Raises:
      UserError: if they are not given as `test`, and the run's data set is not at hand.
    """
    if test is not None:
        images, labels = test.images, test.labels
    elif info.config.data.name == "rendered":  # without drawing all the others
        images, labels, _ = generate(10 * count, info.config.data.seed, 1)
    else:
        found = load_run_data(info, data_dir).test
        images, labels = found.images, found.labels
    turn = np.zeros(len(labels), np.int64)  # how many of the class came before each
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    rows = np.lexsort((labels, turn))[:count]
    return images[rows], labels[rows].astype(np.int32)
