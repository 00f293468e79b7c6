"""Groups of unseen images, such as their writers, by which leakage is measured."""

import numpy as np
from jaxtyping import Int

from infoae_jax.arrays import read_arrays
from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import subset_rows
from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.images.read import reading

NUM_FOLDS = 5  # by which probes are cross-validated: as many groups are needed
_MAX_BYTES = 2**30


def load_groups(source: str, config: DataConfig, splits: Splits) -> Int[np.ndarray, " n"] | None:
    """A whole number for each test image, equal for those of a group; None if nobody knows.

    Args:
      source: an .npz file with the array `test`, in the order in which the data set is read; or the name of a feature
        of a TFDS data set; or '': then those of the rendered data set are the fonts.

    Raises:
      UserError: if there is no such file or feature, or its numbers do not suit the test images.
    """
    if not source:
        return splits.test.factors.get("font")
    if config.name == "folder":
        raise UserError("--groups is not for image folders, whose test images are shuffled. Leave it out.")
    if source.endswith(".npz"):
        with reading(f"--groups: {source}", "It must be an .npz file with a whole number for each image in 'test'."):
            found = read_arrays(user_path(source, "--groups"), _MAX_BYTES)["test"]
    elif config.name == "rendered":
        raise UserError(f"--groups is {source!r}, but must be an .npz file for a data set that is not of TFDS.")
    else:
        from infoae_jax.data.tfds import read_feature  # here, since TFDS is slow to import

        found = read_feature(config, config.test_split, source)
    wanted = len(splits.test)
    if found.ndim == 1 and len(found) > wanted == config.num_test:  # the run measures a part of the split
        found = found[subset_rows(len(found), wanted, config.seed)]
    if found.shape != (wanted,) or found.dtype.kind not in "iu":
        raise UserError(
            f"--groups: {source!r} holds {found.dtype}{list(found.shape)}, but must hold a whole number for each of "
            f"the {wanted} test images."
        )
    if (count := len(np.unique(found))) < NUM_FOLDS:
        raise UserError(f"--groups: {source!r} holds {count} groups, but leakage by group needs {NUM_FOLDS} or more.")
    return found.astype(np.int64)
