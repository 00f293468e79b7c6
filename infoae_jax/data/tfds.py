"""Data sets of TensorFlow Datasets (TFDS)."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import decode_image, stack_images
from infoae_jax.errors import UserError


def tfds_source(config: DataConfig, prepare: bool) -> Source:
    builder = _tfds_builder(config, prepare)
    image_key, label_key = _tfds_features(builder)
    names = tuple(builder.info.features[label_key].names)
    files = sorted(Path(str(builder.data_path)).glob("*.array_record*"))
    listing = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]

    def decode() -> tuple[Dataset, Dataset]:
        splits = [_tfds_split(builder, name, image_key, label_key, names, config) for name in (split, test_split)]
        return splits[0], splits[1]

    split, test_split = config.split, config.test_split
    return {"name": builder.info.full_name, "files": listing, "splits": [split, test_split]}, decode


_OFFLINE = ("NameResolutionError", "Temporary failure in name resolution", "Network is unreachable")
_PREPARE = """
import sys
import tensorflow_datasets as tfds
name, folder = sys.argv[1:]
tfds.builder(name, data_dir=folder or None, file_format="array_record").download_and_prepare()
"""


def _tfds_builder(config: DataConfig, prepare: bool) -> Any:
    import tensorflow_datasets as tfds  # here, because it is slow to import and only this kind of data needs it

    folder = str(Path(config.dir).expanduser()) if config.dir else None
    if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"config.data.dir is {config.dir!r}, which is not a folder.")
    try:
        builder = tfds.builder(config.name, data_dir=folder)
        if not builder.info.splits:
            if builder.info.features is not None:
                _tfds_features(builder)  # refuses what cannot be used before it is downloaded
            if not prepare:
                raise UserError(f"{config.name!r} is not prepared in {folder or 'the default folder of TFDS'}.")
            _prepare(config, folder)
            builder = tfds.builder(config.name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"config.data.name is {config.name!r}, which TFDS does not know. Use 'rendered', 'folder', or a name from "
            f"the TFDS catalogue, such as 'mnist', 'svhn_cropped' or 'fashion_mnist'."
        ) from error
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"TFDS needs TensorFlow to open {config.name!r}: pip install -e '.[prepare]', or choose another data set."
        ) from error
    except Exception as error:  # damaged descriptions lead to many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{config.name!r} in {folder or 'the default folder of TFDS'} cannot be opened ({reason}). If its files "
            f"are damaged, move them away and start again."
        ) from error
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{builder.data_path} was prepared as {builder.info.file_format.value}, which only TensorFlow can read. "
            f"Prepare it as ArrayRecord in another folder: --config.data.dir=path/to/new/folder."
        )
    return builder


def _prepare(config: DataConfig, folder: str | None) -> None:
    """Downloads and prepares, in a process of its own: TensorFlow must not load into the one that trains."""
    where = folder or "TFDS's default folder"
    again = (
        "  pip install -e '.[prepare]'   and start again with network, or\n"
        "  set --config.data.dir to a folder where TFDS has prepared it as ArrayRecord, or\n"
        "  python launch.py --config=configs/rendered.py   for the embedded data set, which needs no download."
    )
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{config.name!r} is not prepared in {where}, and preparing it needs TensorFlow once. Either\n{again}"
        )
    print(f"{config.name!r} is not prepared in {where}: TFDS downloads and prepares it now, once.", flush=True)
    command = [sys.executable, "-c", _PREPARE, config.name, folder or ""]
    reason = "no output"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                reason = line.strip() or reason
                if sys.stderr.isatty():
                    print(f"\r\033[K{reason[:100]}", end="", file=sys.stderr, flush=True)
                if any(sign in line for sign in _OFFLINE):  # TFDS would go on trying for many minutes
                    reason = "there is no network"
                    process.kill()
                    break
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise UserError(f"TFDS could not prepare {config.name!r} in {where}: {reason}\nEither\n{again}")


def _tfds_features(builder: Any) -> tuple[str, str]:
    """Names of the image and of the label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    supervised = builder.info.supervised_keys
    if supervised and supervised[0] in images and supervised[1] in labels:
        return supervised
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"config.data.name is {builder.info.name!r}, which has {len(images)} image and {len(labels)} class "
            f"features, but one of each is needed: choose an image-classification data set."
        )
    return images[0], labels[0]


def _tfds_split(
    builder: Any, split: str, image_key: str, label_key: str, names: tuple[str, ...], config: DataConfig
) -> Dataset:
    import tensorflow_datasets as tfds

    where = f"{builder.info.name} split {split!r} in {builder.data_path}"
    try:
        expected = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"config.data.split or test_split: {builder.info.name} has no {split!r}. There are: {known}."
        ) from error
    if not expected:
        raise UserError(f"The split {split!r} of {builder.info.name} is empty.")
    try:
        source = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
        if len(source) != expected:
            raise UserError(f"{where} holds {len(source)} records instead of {expected}; it is damaged: move it away.")
        labels = np.empty(expected, np.int64)

        def images() -> Iterator[np.ndarray]:
            step = 4096
            for start in range(0, expected, step):
                for i, record in enumerate(source.__getitems__(range(start, min(start + step, expected))), start):
                    labels[i] = record[label_key]
                    yield decode_image(record[image_key], config, f"{i} of {where}")

        return Dataset(stack_images(images(), expected, lambda i: f"image {i}"), labels.astype(np.int32), names)
    except UserError:
        raise
    except Exception as error:  # array_record reports damage by several kinds of exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} cannot be read ({reason}); a file is damaged: move that folder away.") from error
