"""Data sets in image folders: one folder for each class."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import decode_files
from infoae_jax.errors import UserError
from infoae_jax.images.read import list_images

LabelledFile = tuple[Path, int]


def folder_source(config: DataConfig) -> Source:
    """The images below `config.dir`: in its folders train/ and test/ if it has both, otherwise split by a seed.

    Raises:
      UserError: if the folder does not exist, or has too few classes or images.
    """
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"The image folder {str(root)!r} does not exist, or is not a folder. Check --config.data.dir.")
    if (root / "train").is_dir() and (root / "test").is_dir():
        names, train = _list_classes(root / "train")
        test_names, test = _list_classes(root / "test")
        if odd := set(names) ^ set(test_names):
            raise UserError(f"{root}: train/ and test/ must have the same classes; only one of them has {min(odd)!r}.")
    else:
        names, files = _list_classes(root)
        train, test = _split(files, config.test_fraction, config.seed)
    try:
        stats = [(path, label, path.stat()) for path, label in train + test]
    except OSError as error:
        raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def decode() -> Iterator[Dataset]:
        # Files are sorted by class; shuffled, the first n of them have all classes.
        rng = np.random.default_rng([config.seed, 1])
        for files in (train, test):
            paths, labels = zip(*(files[i] for i in rng.permutation(len(files))), strict=True)
            yield Dataset(decode_files(paths, config), np.array(labels, np.int32), names)

    listing = [(str(path.relative_to(root)), label, s.st_size, s.st_mtime_ns) for path, label, s in stats]
    return Source({"kind": "folder", "files": listing, "train": len(train)}, decode)


def _list_classes(root: Path) -> tuple[tuple[str, ...], list[LabelledFile]]:
    """Class names (the sub-folders, sorted) and all image files with their labels."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "no sub-folder"
        raise UserError(f"{root} must hold two or more folders of PNG or JPEG images, one a class; it has {found}.")
    files: list[LabelledFile] = []
    for label, folder in enumerate(classes):
        images = list_images(folder)
        files += [(path, label) for path in images]
        others = {p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith(".")} - set(images)
        if others:
            print(f"{folder}: ignored {len(others)} file(s) other than PNG or JPEG, such as {min(others).name}.")
    return tuple(folder.name for folder in classes), files


def _split(files: list[LabelledFile], fraction: float, seed: int) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Splits each class by a seed, with at least one image on either side."""
    rng = np.random.default_rng([seed, 0])
    train: list[LabelledFile] = []
    test: list[LabelledFile] = []
    for _, group in groupby(files, key=lambda file: file[1]):
        members = list(group)
        if len(members) < 2:
            raise UserError(f"The class folder {members[0][0].parent} has 1 image, but needs 2: one trains, one tests.")
        members = [members[i] for i in rng.permutation(len(members))]
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        test += members[:count]
        train += members[count:]
    return train, test
