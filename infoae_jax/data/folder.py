"""Data sets in image folders: one folder for each class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import decode_files
from infoae_jax.errors import UserError
from infoae_jax.images.read import list_images


def folder_source(config: DataConfig) -> Source:
    """The images below `config.dir`: in its folders train/ and test/ if it has both, otherwise split by a seed.

    Raises:
      UserError: if the folder does not exist, or has too few classes or images.
    """
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"The image folder {str(root)!r} does not exist, or is not a folder. Check --config.data.dir.")
    if (root / "train").is_dir() and (root / "test").is_dir():
        train, test = _list_classes(root / "train"), _list_classes(root / "test")
        if odd := train.keys() ^ test.keys():
            raise UserError(f"{root}: train/ and test/ must have the same classes; only one of them has {min(odd)!r}.")
    else:
        train, test = {}, {}
        rng = np.random.default_rng([config.seed, 0])
        for name, files in _list_classes(root).items():
            if len(files) < 2:
                raise UserError(f"The class folder {root / name} has 1 image, but needs 2: one trains, one tests.")
            files = [files[i] for i in rng.permutation(len(files))]
            count = min(max(round(len(files) * config.test_fraction), 1), len(files) - 1)
            train[name], test[name] = files[count:], files[:count]
    splits = [[(path, k) for k, files in enumerate(split.values()) for path in files] for split in (train, test)]
    try:
        stats = [(path, label, path.stat()) for path, label in splits[0] + splits[1]]
    except OSError as error:
        raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def decode() -> Iterator[Dataset]:
        # Files are sorted by class; shuffled, the first n of them have all classes.
        rng = np.random.default_rng([config.seed, 1])
        for split in splits:
            paths, labels = zip(*(split[i] for i in rng.permutation(len(split))), strict=True)
            yield Dataset(decode_files(paths, config), np.array(labels, np.int32), tuple(train))

    listing = [(str(path.relative_to(root)), label, s.st_size, s.st_mtime_ns) for path, label, s in stats]
    return Source({"kind": "folder", "files": listing, "train": len(splits[0])}, decode)


def _list_classes(root: Path) -> dict[str, list[Path]]:
    """The image files of each class, which is a sub-folder; both are sorted."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) < 2:
        found = f"only {folders[0].name!r}" if folders else "no sub-folder"
        raise UserError(f"{root} must hold two or more folders of PNG or JPEG images, one a class; it has {found}.")
    classes = {folder.name: list_images(folder) for folder in folders}
    for folder in folders:
        others = {p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith(".")}
        if others := others.difference(classes[folder.name]):
            print(f"{folder}: ignored {len(others)} file(s) other than PNG or JPEG, such as {min(others).name}.")
    return classes
