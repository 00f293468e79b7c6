"""Labelled images as arrays: from TFDS, from a folder, or drawn by `rendered`.

Decoded arrays are cached as uint8, so that a second start takes a fraction of a second. A cache entry's name holds a
hash of where the images came from, and the archive's own checksums are verified on every read.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.cache import CACHE_VERSION, content_hash, data_cache_folder, read_cache, write_cache
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.folder import folder_source
from infoae_jax.data.rendered import rendered_source
from infoae_jax.data.tfds import tfds_source
from infoae_jax.errors import UserError


def load_splits(config: DataConfig, prepare: bool = True) -> Splits:
    """The train and test images that `config` names, from the cache if they are there.

    prepare: let TFDS download and prepare a data set that is not.

    Raises:
      UserError: if the data are missing, broken, or of a kind that cannot be trained on.
    """
    path, key, decode = _place(config, prepare)
    splits = read_cache(path)
    if splits is None:
        train, test = decode()
        train, test = _subset(train, config.num_train, config.seed), _subset(test, config.num_test, config.seed)
        for split, name in ((train, "train"), (test, "test")):
            _check(split, config, name)
        sizes = [split.images.shape[1:] for split in (train, test)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"The training images of {config.name!r} are {sizes[0]} (height, width, channels), the test images "
                f"{sizes[1]}. Have them converted, for instance with --config.data.image_size=32 "
                f"--config.data.channels=3."
            )
        # A drawing may differ in its last bit between processors; it is still the same data set.
        fingerprint = key["drawing"] if "drawing" in key else content_hash(train, test)
        splits = Splits(train, test, fingerprint)
        write_cache(path, splits)
    return splits


def is_cached(config: DataConfig) -> bool:
    """Whether `load` needs to decode nothing. False as well where it would fail."""
    try:
        return _place(config, prepare=False)[0].exists()
    except UserError:
        return False


def _place(config: DataConfig, prepare: bool) -> tuple[Path, dict[str, Any], Callable[[], tuple[Dataset, Dataset]]]:
    """Where the cache has these images, and their source's key and decoder."""
    kind = config.name if config.name in _SOURCES else "tfds"
    key, decode = _SOURCES[kind](config, prepare)
    key |= {f: getattr(config, f) for f in ("image_size", "channels", "num_train", "num_test", "seed")}
    key |= {"kind": kind, "version": CACHE_VERSION}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return data_cache_folder(config) / f"{config.name.replace('/', '-')}-{digest[:16]}.npz", key, decode


_SOURCES = {"rendered": rendered_source, "folder": folder_source, "tfds": tfds_source}


def _subset(split: Dataset, count: int, seed: int) -> Dataset:
    if not count or count >= len(split):
        return split
    chosen = np.random.default_rng([seed, 2]).permutation(len(split))[:count]
    factors = {name: values[chosen] for name, values in split.factors.items()}
    return Dataset(split.images[chosen], split.labels[chosen], split.class_names, factors)


def _check(split: Dataset, config: DataConfig, name: str) -> None:
    if not len(split):
        raise UserError(f"The {name} split of {config.name!r} is empty.")
    low, high, count = split.labels.min(), split.labels.max(), len(split.class_names)
    if low < 0 or high >= count:
        raise UserError(
            f"The {name} split of {config.name!r} has labels from {low} to {high}, but its {count} classes are "
            f"numbered 0 to {count - 1}. Images without a label cannot be used."
        )
    if name == "train" and len(np.unique(split.labels)) < 2:
        only = split.class_names[split.labels[0]]
        raise UserError(f"All training images of {config.name!r} are of one class ({only!r}), but two are needed.")
