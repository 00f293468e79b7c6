"""Data sets of TensorFlow Datasets (TFDS), which prepares them as ArrayRecord files."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import Image, decode, stack
from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.images.read import reading

_RECORDS_PER_READ = 4096
_OFFLINE_SIGNS = ("NameResolutionError", "Temporary failure in name resolution", "Network is unreachable")
_IF_DAMAGED = "If its files are damaged, move them elsewhere and start again."
_PREPARE = """
import sys
import tensorflow_datasets as tfds
name, folder = sys.argv[1:]
tfds.builder(name, data_dir=folder or None, file_format="array_record").download_and_prepare()
"""
_ADVICE = """Either
  pip install -e '.[prepare]'   and start again with network, or
  set --config.data.dir to a folder where TFDS has prepared it as ArrayRecord, or
  python launch.py --config=configs/rendered.py   for the rendered data set, which needs no download."""


def tfds_source(config: DataConfig, prepare: bool) -> Source:
    """The splits of a TFDS data set that `config` names; `prepare` allows TFDS to download and prepare it.

    Raises:
      UserError: if there is no such data set, or it is not prepared, damaged, or not for image classification.
    """
    builder = _open_builder(config, prepare)
    keys = _find_features(builder)
    files = sorted(Path(str(builder.data_path)).glob("*.array_record*"))
    splits = [config.split, config.test_split]
    listing = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = {"kind": "tfds", "name": builder.info.full_name, "files": listing, "splits": splits}
    return Source(key, lambda: [_decode_split(builder, split, keys, config) for split in splits])


def read_feature(config: DataConfig, split: str, name: str) -> np.ndarray:
    """A number for each image of a split, from a feature of the TFDS data set; raises `UserError` if it has none."""
    builder = _open_builder(config, prepare=False)
    images, _ = _find_features(builder)
    if name not in builder.info.features or name == images:
        raise UserError(f"{config.name!r} has no feature {name!r} of numbers, only {', '.join(builder.info.features)}.")
    with reading(f"The feature {name!r} of {config.name!r}", _IF_DAMAGED):
        records = builder.as_data_source(split=split, decoders={images: tfds.decode.SkipDecoding()})
        return np.array([record[name] for record in records])


def _open_builder(config: DataConfig, prepare: bool) -> tfds.core.DatasetBuilder:
    name, folder = config.name, str(user_path(config.dir, "config.data.dir")) if config.dir else None
    where = folder or "the default folder of TFDS"
    if folder is not None and Path(folder).is_file():
        raise UserError(f"config.data.dir is {config.dir!r}, which is not a folder. Name one, or leave it out.")
    with reading(f"{name!r} in {where}", _IF_DAMAGED):
        try:
            builder = tfds.builder(name, data_dir=folder)
            if not builder.info.splits:
                if builder.info.features is not None:
                    _find_features(builder)  # refuses what cannot be used before it is downloaded
                if not prepare:
                    raise UserError(f"{name!r} is not prepared in {where}.")
                _prepare(name, folder, where)
                builder = tfds.builder(name, data_dir=folder)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise UserError(
                f"config.data.name is {name!r}, which TFDS does not know. Use 'rendered', 'folder', or a name from the "
                f"TFDS catalogue, such as 'mnist', 'svhn_cropped' or 'fashion_mnist'."
            ) from error
        except ImportError as error:
            raise UserError(f"TFDS needs TensorFlow to open {name!r}: pip install -e '.[prepare]'") from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} was prepared as {builder.info.file_format.value}, which only TensorFlow can read. "
            f"Prepare it as ArrayRecord in another folder: --config.data.dir=path/to/new/folder."
        )
    return builder


def _prepare(name: str, folder: str | None, where: str) -> None:
    """Downloads and prepares in another process, since TensorFlow must not be loaded into the one that trains."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"{name!r} is not prepared in {where}, and preparing it needs TensorFlow once. {_ADVICE}")
    print(f"{name!r} is not prepared in {where}: TFDS downloads and prepares it now, once.", flush=True)
    command = [sys.executable, "-c", _PREPARE, name, folder or ""]
    reason = "no output"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace") as process:
        try:
            for line in process.stdout or ():
                reason = line.strip() or reason
                if sys.stderr.isatty():
                    print(f"\r\033[K{reason[:100]}", end="", file=sys.stderr, flush=True)
                if any(sign in line for sign in _OFFLINE_SIGNS):  # TFDS would retry for many minutes
                    reason = "there is no network"
                    break
            else:
                process.wait()
        finally:
            process.kill()  # does nothing to a process that has ended
    if process.returncode:
        raise UserError(f"TFDS could not prepare {name!r} in {where}: {reason}\n{_ADVICE}")


def _find_features(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The names of the image and of the label."""
    name, features, supervised = builder.info.name, builder.info.features, builder.info.supervised_keys
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if supervised and supervised[0] in images and supervised[1] in labels:
        return supervised
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    raise UserError(
        f"config.data.name is {name!r}, which has {len(images)} image and {len(labels)} class features, but one of "
        f"each is needed: choose an image-classification data set."
    )


def _decode_split(builder: tfds.core.DatasetBuilder, split: str, keys: tuple[str, str], config: DataConfig) -> Dataset:
    info, (image_key, label_key) = builder.info, keys
    try:
        count = info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{info.name} has no split {split!r} (config.data.split or test_split), only {', '.join(info.splits)}."
        ) from error
    if not count:
        raise UserError(f"The split {split!r} of {info.name} is empty. Use another one.")
    labels, where = np.empty(count, np.int32), f"{info.name} split {split!r} in {builder.data_path}"

    def decode_all() -> Iterator[tuple[str, Image]]:
        for start in range(0, count, _RECORDS_PER_READ):
            rows = range(count)[start : start + _RECORDS_PER_READ]
            for row, record in zip(rows, records.__getitems__(rows), strict=True):
                labels[row] = record[label_key]
                yield f"image {row}", decode(record[image_key], f"{row} of {where}", config)

    with reading(where, _IF_DAMAGED):
        records = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
        if len(records) != count:
            raise ValueError(f"it holds {len(records)} records instead of {count}")
        return Dataset(stack(decode_all(), count), labels, tuple(info.features[label_key].names))
