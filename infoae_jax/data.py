"""Labelled images as arrays: from TFDS, from a folder, or drawn by `rendered`.

Decoded arrays are cached as uint8, so that a second start takes a fraction of a second. A cache entry's name holds a
hash of where the images came from, and the archive's own checksums are verified on every read.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from infoae_jax import pictures, rendered
from infoae_jax.config import DataConfig
from infoae_jax.errors import UserError

_CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images of one size; `factors` holds known style factors by name (rendered only)."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    factors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


class Splits(NamedTuple):
    """`fingerprint` identifies the data: by their pixels and labels, or by all that a drawing is made from."""

    train: Dataset
    test: Dataset
    fingerprint: str


def load(config: DataConfig, prepare: bool = True) -> Splits:
    """The train and test images that `config` names, from the cache if they are there.

    prepare: let TFDS download and prepare a data set that is not.

    Raises:
      UserError: if the data are missing, broken, or of a kind that cannot be trained on.
    """
    path, key, decode = _place(config, prepare)
    splits = _read_cache(path)
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
        fingerprint = key["drawing"] if "drawing" in key else _content_hash(train, test)
        splits = Splits(train, test, fingerprint)
        _write_cache(path, splits)
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
    key |= {"kind": kind, "version": _CACHE_VERSION}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder(config) / f"{config.name.replace('/', '-')}-{digest[:16]}.npz", key, decode


# --- Sources: each gives a key that identifies the data, and a function that decodes them. ----------------------------

_Source = tuple[dict[str, Any], Callable[[], tuple[Dataset, Dataset]]]


def _rendered_source(config: DataConfig, _prepare: bool) -> _Source:
    def decode() -> tuple[Dataset, Dataset]:
        names = tuple(str(digit) for digit in range(10))
        splits = []
        for split, count in enumerate((config.num_train, config.num_test)):
            images, digits, styles = rendered.draw(count, config.seed, split)
            splits.append(Dataset(images, digits, names, styles.arrays()))
        return splits[0], splits[1]

    recipe = f"{rendered.recipe()} {config.seed} {config.num_train} {config.num_test}"
    return {"drawing": hashlib.sha256(recipe.encode()).hexdigest()}, decode


def _folder_source(config: DataConfig, _prepare: bool) -> _Source:
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"The image folder {str(root)!r} does not exist, or is not a folder. Check --config.data.dir.")
    given = [(root / name).is_dir() for name in ("train", "test")]
    if all(given):
        names, train = _list_classes(root / "train")
        test_names, test = _list_classes(root / "test")
        if names != test_names:
            odd = sorted(set(names) ^ set(test_names))
            raise UserError(f"{root}: train/ and test/ must have the same classes; only one of them has {odd[0]!r}.")
    else:
        names, everything = _list_classes(root)
        train, test = _split(everything, config.test_fraction, config.seed)
    try:
        listing = [
            (str(p.relative_to(root)), label, p.stat().st_size, p.stat().st_mtime_ns) for p, label in train + test
        ]
    except OSError as error:
        raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def decode() -> tuple[Dataset, Dataset]:
        # Files come sorted by class; whoever takes 'the first n' of them must get all classes.
        rng = np.random.default_rng([config.seed, 1])
        splits = []
        for files in (train, test):
            files = [files[i] for i in rng.permutation(len(files))]
            # bytes are read as they are decoded, so that a large folder is never held in memory encoded
            images = _decode_all([p for p, _ in files], config, lambda path: path.read_bytes())
            splits.append(Dataset(images, np.array([label for _, label in files], np.int32), names))
        return splits[0], splits[1]

    return {"files": listing, "train": len(train)}, decode


def _tfds_source(config: DataConfig, prepare: bool) -> _Source:
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


_SOURCES = {"rendered": _rendered_source, "folder": _folder_source, "tfds": _tfds_source}


# --- Image folders ----------------------------------------------------------------------------------------------------


def _list_classes(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names (the sub-folders, sorted) and all image files with their labels."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "no sub-folder"
        raise UserError(
            f"{root} must hold a folder of PNG or JPEG images for each class, for two classes or more; it has {found}."
        )
    files: list[tuple[Path, int]] = []
    for label, folder in enumerate(classes):
        visible = sorted(p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith("."))
        images = [p for p in visible if p.suffix.lower() in pictures.SUFFIXES]
        if not images:
            raise UserError(f"The class folder {folder} has no PNG or JPEG image. Add some, or remove the folder.")
        if len(images) < len(visible):
            odd = next(p for p in visible if p not in images)
            print(
                f"{folder}: left out {len(visible) - len(images)} file(s) that are not PNG or JPEG, such as {odd.name}."
            )
        files += [(p, label) for p in images]
    return tuple(folder.name for folder in classes), files


def _split(files: list[tuple[Path, int]], fraction: float, seed: int) -> tuple[list, list]:
    """Seeded, class by class, with at least one image of each class on either side."""
    rng = np.random.default_rng([seed, 0])
    train, test = [], []
    for label in sorted({label for _, label in files}):
        members = [f for f in files if f[1] == label]
        if len(members) < 2:
            raise UserError(f"The class folder {members[0][0].parent} has 1 image, but needs 2: one trains, one tests.")
        members = [members[i] for i in rng.permutation(len(members))]
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        test += members[:count]
        train += members[count:]
    return train, test


def _decode_all(sources: Sequence[Any], config: DataConfig, read: Callable[[Any], bytes]) -> np.ndarray:
    """Decodes, converts and resizes; names the source of an image that is broken or does not fit the others."""

    def decode(source: Any) -> np.ndarray:
        try:
            encoded = read(source)
        except OSError as error:
            raise UserError(f"The image {source} cannot be read ({error.strerror}).") from error
        return _decode(encoded, config, source)

    with ThreadPoolExecutor() as pool:
        try:
            return _stack(pool.map(decode, sources), len(sources), lambda i: str(sources[i]))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # do not decode all the others first
            raise


def _decode(encoded: bytes, config: DataConfig, source: Any) -> np.ndarray:
    side = config.image_size
    return pictures.decode(encoded, source, config.channels, (side, side) if side else None)


def _stack(images: Iterator[np.ndarray], count: int, name: Callable[[int], str]) -> np.ndarray:
    stacked = None
    for i, image in enumerate(images):
        if stacked is None:
            stacked = np.empty((count, *image.shape), np.uint8)
        elif image.shape != stacked.shape[1:]:
            h, w, c = stacked.shape[1:]
            raise UserError(
                f"The images differ in size or channels: {name(0)} is {w}x{h}x{c} and {name(i)} is {image.shape[1]}x"
                f"{image.shape[0]}x{image.shape[2]}. Have them converted, for instance with "
                f"--config.data.image_size=32 --config.data.channels=3."
            )
        stacked[i] = image
    if stacked is None:
        raise UserError("The data set has no image.")
    return stacked


# --- TFDS -------------------------------------------------------------------------------------------------------------

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
                    yield _decode(record[image_key], config, f"{i} of {where}")

        return Dataset(_stack(images(), expected, lambda i: f"image {i}"), labels.astype(np.int32), names)
    except UserError:
        raise
    except Exception as error:  # array_record reports damage by several kinds of exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} cannot be read ({reason}); a file is damaged: move that folder away.") from error


# --- Checks, subsets --------------------------------------------------------------------------------------------------


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


# --- Cache ------------------------------------------------------------------------------------------------------------


def user_cache_folder() -> Path:
    """Where this project keeps what it can make again, by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infoae_jax"


def cache_folder(config: DataConfig) -> Path:
    return Path(config.cache_dir).expanduser() if config.cache_dir else user_cache_folder()


def _content_hash(*splits: Dataset) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.images.shape} {split.class_names}".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, np.int32).data)
    return digest.hexdigest()


def _read_cache(path: Path) -> Splits | None:
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


def _write_cache(path: Path, splits: Splits) -> None:
    """Writes to a temporary name and renames, so that no reader ever sees half a file."""
    arrays: dict[str, Any] = {}
    for name, split in (("train", splits.train), ("test", splits.test)):
        arrays |= {f"{name}/images": split.images, f"{name}/labels": split.labels}
        arrays |= {f"{name}/{factor}": values for factor, values in split.factors.items()}
    meta = json.dumps({"class_names": splits.train.class_names, "fingerprint": splits.fingerprint})
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}-*"):
            if time.time() - leftover.stat().st_mtime > 86_400:  # of a process that was killed, not one at work
                leftover.unlink()
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = file.name
            np.savez(file, meta=np.array(meta), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # training can go on without it
        warnings.warn(f"The decoded images could not be cached in {path.parent} ({error}).", stacklevel=2)
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
