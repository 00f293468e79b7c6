"""The labelled images that a configuration names: from TFDS, from a folder, or rendered; decoded once, then cached."""

import hashlib
import sys
import warnings

import numpy as np
from jaxtyping import Int

from infoae_jax.config import DataConfig
from infoae_jax.data.cache import cache_path, read_cache, write_cache
from infoae_jax.data.dataset import Dataset, Source, Splits, content_hash
from infoae_jax.data.folder import folder_source
from infoae_jax.data.rendered import rendered_source
from infoae_jax.errors import UserError


def load_splits(config: DataConfig, prepare: bool = True) -> Splits:
    """Loads the images for training and for testing, from the cache if they are there.

    Args:
      prepare: whether TFDS may download and prepare a data set that is not prepared yet.

    Raises:
      UserError: if the data are missing, broken, or of a kind that cannot be trained on.
    """
    source = _find_source(config, prepare)
    path = cache_path(config, source.key)
    splits = read_cache(path)
    if splits is None:
        print(f"Reading the images of {config.name!r}; a copy is kept for the next time.", file=sys.stderr, flush=True)
        train, test = source.decode()
        train, test = _subset(train, config.num_train, config.seed), _subset(test, config.num_test, config.seed)
        _check(train, test, config.name)
        splits = Splits(train, test, source.fingerprint or content_hash(train, test))
        write_cache(path, splits)
    _warn_of_copies(splits.train, splits.test)
    return splits


def _find_source(config: DataConfig, prepare: bool) -> Source:
    if config.name == "rendered":
        return rendered_source(config)
    if config.name == "folder":
        return folder_source(config)
    from infoae_jax.data.tfds import tfds_source  # here, since TFDS is slow to import

    return tfds_source(config, prepare)


def _subset(split: Dataset, count: int, seed: int) -> Dataset:
    if not count or count >= len(split):
        return split
    return split[subset_rows(len(split), count, seed)]


def subset_rows(total: int, count: int, seed: int) -> Int[np.ndarray, " {count}"]:
    """Which rows of a split are taken if only `count` of them are wanted."""
    return np.random.default_rng([seed, 2]).permutation(total)[:count]


def _check(train: Dataset, test: Dataset, name: str) -> None:
    count = len(train.class_names)
    for kind, split in (("train", train), ("test", test)):
        low, high = split.labels.min(), split.labels.max()
        if low < 0 or high >= count:
            raise UserError(
                f"The {kind} split of {name!r} has labels from {low} to {high}, not 0..{count - 1}. Use another split."
            )
    if len(np.unique(train.labels)) < 2:
        only = train.class_names[train.labels[0]]
        raise UserError(f"All training images of {name!r} are of one class, {only!r}. Use other images.")
    if (size := train.images.shape[1:]) != (other := test.images.shape[1:]):
        raise UserError(
            f"The training images of {name!r} are {size} (height, width, channels), the test images {other}. "
            f"Convert them, for instance with --config.data.image_size=32 --config.data.channels=3."
        )


def _warn_of_copies(train: Dataset, test: Dataset) -> None:
    known, asked = ([hashlib.blake2b(image).digest() for image in split.images] for split in (train, test))
    if count := sum(map(set(known).__contains__, asked)):
        these = "image is also a training image" if count == 1 else "images are also training images"
        warnings.warn(
            f"{count} test {these}; the figures will look better than they are. Keep each image in one split.",
            stacklevel=3,
        )
