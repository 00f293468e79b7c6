"""The cache of decoded data sets: one .npz file for each, uint8 images with their labels and factors.

Its name holds a hash of what the images depend on. The archive's checksums are verified on every read.
"""

import hashlib
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np

from infoae_jax.arrays import read_arrays
from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.files import cache_folder, replacing, user_path
from infoae_jax.types import Json


def data_cache_folder(config: DataConfig) -> Path:
    """`config.cache_dir`, or the user's cache folder."""
    return user_path(config.cache_dir, "config.data.cache_dir") if config.cache_dir else cache_folder()


def cache_path(config: DataConfig, key: Json) -> Path:
    """Where the data set of `config` is cached; `key` holds what else its images depend on."""
    fields = ("image_size", "channels", "num_train", "num_test", "seed")
    key = key | {name: getattr(config, name) for name in fields} | {"version": 1}  # of the format of the file
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return data_cache_folder(config) / f"{config.name.replace('/', '-')}-{digest[:16]}.npz"


def read_cache(path: Path) -> Splits | None:
    """The cached data set; None if there is no such file or it is damaged, which is a warning."""
    if not os.path.isfile(path):  # also of a home folder that others may not enter
        return None
    try:
        arrays = read_arrays(path)
        meta = json.loads(str(arrays.pop("meta")))
        splits = []
        for split in ("train/", "test/"):
            members = {k.removeprefix(split): v for k, v in arrays.items() if k.startswith(split)}
            splits.append(Dataset(members.pop("images"), members.pop("labels"), tuple(meta["class_names"]), members))
        return Splits(splits[0], splits[1], meta["fingerprint"])
    except Exception as error:  # damaged archives lead to many kinds
        warnings.warn(f"The cache file {path} is damaged ({error}); it is made again.", stacklevel=2)
        return None


def write_cache(path: Path, splits: Splits) -> None:
    """Caches a data set at `path`; warns if that fails."""
    meta = {"class_names": splits.train.class_names, "fingerprint": splits.fingerprint}
    arrays = {"meta": np.array(json.dumps(meta))}
    for name, split in (("train", splits.train), ("test", splits.test)):
        members = {"images": split.images, "labels": split.labels, **split.factors}
        arrays |= {f"{name}/{member}": values for member, values in members.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}-*"):
            if time.time() - leftover.stat().st_mtime > 86_400:  # left by a process that was killed a day ago
                leftover.unlink()
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes an array for `allow_pickle`
    except OSError as error:  # training does not need the cache
        warnings.warn(f"The decoded images could not be cached in {path.parent} ({error}).", stacklevel=2)
