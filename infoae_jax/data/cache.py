"""The cache of decoded data sets."""

import hashlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.files import cache_folder, replacing

CACHE_VERSION = 1


def data_cache_folder(config: DataConfig) -> Path:
    return Path(config.cache_dir).expanduser() if config.cache_dir else cache_folder()


def content_hash(*splits: Dataset) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.images.shape} {split.class_names}".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, np.int32).data)
    return digest.hexdigest()


def read_cache(path: Path) -> Splits | None:
    """The cached data, or None if there are none or the file is damaged (zip archives carry checksums)."""
    if not path.exists():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        splits = []
        for name in ("train", "test"):
            own = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
            splits.append(Dataset(own.pop("images"), own.pop("labels"), tuple(meta["class_names"]), own))
        return Splits(splits[0], splits[1], meta["fingerprint"])
    except Exception as error:  # whatever a damaged archive leads to
        warnings.warn(f"The cache file {path} is damaged ({error}); it is made again.", stacklevel=2)
        return None


def write_cache(path: Path, splits: Splits) -> None:
    """Writes to a temporary name and renames, so that no reader ever sees half a file."""
    arrays: dict[str, Any] = {}
    for name, split in (("train", splits.train), ("test", splits.test)):
        arrays |= {f"{name}/images": split.images, f"{name}/labels": split.labels}
        arrays |= {f"{name}/{factor}": values for factor, values in split.factors.items()}
    meta = json.dumps({"class_names": splits.train.class_names, "fingerprint": splits.fingerprint})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}-*"):
            if time.time() - leftover.stat().st_mtime > 86_400:  # of a process that was killed, not one at work
                leftover.unlink()
        with replacing(path) as file:
            np.savez(file, meta=np.array(meta), **arrays)
    except OSError as error:  # training can go on without it
        warnings.warn(f"The decoded images could not be cached in {path.parent} ({error}).", stacklevel=2)
