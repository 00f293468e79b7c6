"""Data sets in image folders: one folder for each class."""

from pathlib import Path

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import decode_files
from infoae_jax.errors import UserError
from infoae_jax.images.read import FOLDER_SUFFIXES

LabelledFile = tuple[Path, int]


def folder_source(config: DataConfig) -> Source:
    """The images below `config.dir`: in its folders train/ and test/ if it has both, otherwise split by a seed.

    Raises:
      UserError: if the folder does not exist, has fewer than two classes, or a class has no images on one side.
    """
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise UserError(f"The image folder {str(root)!r} does not exist, or is not a folder. Check --config.data.dir.")
    if (root / "train").is_dir() and (root / "test").is_dir():
        names, train = _list_classes(root / "train")
        test_names, test = _list_classes(root / "test")
        if names != test_names:
            odd = sorted(set(names) ^ set(test_names))
            raise UserError(f"{root}: train/ and test/ must have the same classes; only one of them has {odd[0]!r}.")
    else:
        names, files = _list_classes(root)
        train, test = _split(files, config.test_fraction, config.seed)
    try:
        listing = [
            (str(p.relative_to(root)), label, p.stat().st_size, p.stat().st_mtime_ns) for p, label in train + test
        ]
    except OSError as error:
        raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error

    def decode() -> tuple[Dataset, Dataset]:
        # Files are sorted by class; shuffled, the first n of them have all classes.
        rng = np.random.default_rng([config.seed, 1])
        splits = []
        for files in (train, test):
            files = [files[i] for i in rng.permutation(len(files))]
            images = decode_files([path for path, _ in files], config)
            splits.append(Dataset(images, np.array([label for _, label in files], np.int32), names))
        return splits[0], splits[1]

    return Source({"kind": "folder", "files": listing, "train": len(train)}, decode)


def _list_classes(root: Path) -> tuple[tuple[str, ...], list[LabelledFile]]:
    """Class names (the sub-folders, sorted) and all image files with their labels."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0].name!r}" if classes else "no sub-folder"
        raise UserError(
            f"{root} must hold a folder of PNG or JPEG images for each class, for two classes or more; it has {found}."
        )
    files: list[LabelledFile] = []
    for label, folder in enumerate(classes):
        visible = sorted(p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith("."))
        images = [p for p in visible if p.suffix.lower() in FOLDER_SUFFIXES]
        if not images:
            raise UserError(
                f"The class folder {folder} has no PNG or JPEG image. Add some, or move the folder elsewhere if it is "
                f"not a class."
            )
        if len(images) < len(visible):
            odd = next(p for p in visible if p not in images)
            print(f"{folder}: ignored {len(visible) - len(images)} file(s) other than PNG or JPEG, such as {odd.name}.")
        files += [(p, label) for p in images]
    return tuple(folder.name for folder in classes), files


def _split(files: list[LabelledFile], fraction: float, seed: int) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Splits each class by a seed, with at least one image on either side."""
    rng = np.random.default_rng([seed, 0])
    train: list[LabelledFile] = []
    test: list[LabelledFile] = []
    for label in sorted({label for _, label in files}):
        members = [f for f in files if f[1] == label]
        if len(members) < 2:
            raise UserError(f"The class folder {members[0][0].parent} has 1 image, but needs 2: one trains, one tests.")
        members = [members[i] for i in rng.permutation(len(members))]
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        test += members[:count]
        train += members[count:]
    return train, test
