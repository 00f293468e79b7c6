"""The data set of a finished run."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import generate
from infoae_jax.errors import UserError
from infoae_jax.runs.folder import RunInfo

NUM_EXAMPLES = 40  # test images on the page of `infoae demo`


class Examples(NamedTuple):
    """Test images to pick from, and their classes."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


def load_run_data(info: RunInfo, data_dir: str | None = None, prepare: bool = False) -> Splits:
    """The data set that a run was trained on, in `data_dir` or where the run found it; `prepare` lets TFDS download it.

    Raises:
      UserError: if it is not there, or its images have changed.
    """
    config = info.config.data if data_dir is None else dataclasses.replace(info.config.data, dir=data_dir)
    splits = load_splits(config, prepare=prepare)
    if splits.fingerprint != info.fingerprint:
        raise UserError(
            f"The images of {config.name!r} found now ({len(splits.train)} + {len(splits.test)}) are not those that "
            f"the run was trained on ({info.num_train} + {info.num_test}). Say where those are with data_dir."
        )
    return splits


def example_images(info: RunInfo, count: int, data_dir: str | None = None) -> Examples:
    """At most `count` test images of a run, of all classes in turn. See `load_run_data`."""
    if info.config.data.name == "rendered":  # these few are generated faster than all are loaded
        images, labels, _ = generate(10 * count, info.config.data.seed, 1)
    else:
        test = load_run_data(info, data_dir).test
        images, labels = test.images, test.labels
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rows = [row for turn in itertools.zip_longest(*members) for row in turn if row is not None][:count]
    return Examples(images[rows], labels[rows].astype(np.int32))
