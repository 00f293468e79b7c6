"""The data set of a finished run."""

import dataclasses

import numpy as np
from jaxtyping import Int, UInt8

from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import generate
from infoae_jax.errors import UserError
from infoae_jax.runs.folder import RunInfo

NUM_EXAMPLES = 40  # test images on the page of `infoae demo`


def load_run_data(info: RunInfo, data_dir: str | None = None, prepare: bool = False) -> Splits:
    """The data set that a run was trained on.

    Args:
      info: the run's record.
      data_dir: where the data set is; by default, where the run found it.
      prepare: whether TFDS may download and prepare it.

    Raises:
      UserError: if it is not there, or its images have changed.
    """
    config = info.config.data if data_dir is None else dataclasses.replace(info.config.data, dir=data_dir)
    splits = load_splits(config, prepare=prepare)
    if splits.fingerprint != info.fingerprint:
        raise UserError(
            f"The images of {config.name!r} found now ({len(splits.train)} + {len(splits.test)}) are not those that "
            f"the run was trained on ({info.num_train} + {info.num_test})."
        )
    return splits


def example_images(
    info: RunInfo, count: int, test: Dataset | None = None, data_dir: str | None = None
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Test images of all classes in turn, and their labels.

    Args:
      info: the run's record.
      count: number of images, at most.
      test: all test images; by default, they are loaded.
      data_dir: see `load_run_data`.

    Raises:
      UserError: if the run's data set is needed but cannot be found.
    """
    if test is not None:
        images, labels = test.images, test.labels
    elif info.config.data.name == "rendered":  # these few are generated faster than all are loaded
        images, labels, _ = generate(10 * count, info.config.data.seed, 1)
    else:
        found = load_run_data(info, data_dir).test
        images, labels = found.images, found.labels
    turn = np.zeros(len(labels), np.int64)  # number of images of the same class before each
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    rows = np.lexsort((labels, turn))[:count]
    return images[rows], labels[rows].astype(np.int32)
