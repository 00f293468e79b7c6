"""Data sets in image folders: one folder for each class."""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from infoae_jax.config import DataConfig
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.data.decode import decode_files
from infoae_jax.errors import UserError
from infoae_jax.files import user_path
from infoae_jax.images.read import IF_UNREADABLE, list_images, reading

Classes: TypeAlias = dict[str, list[Path]]  # image files by class
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}
_MAX_NAMED = 3  # of what is not used
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates stand for bytes that are not UTF-8


def folder_source(config: DataConfig) -> Source:
    """The images below `config.dir`, split by a seed, unless its folders are splits: train/, and test/ or else val/.

    What lies there and is not used is printed.

    Raises:
      UserError: if the folder does not exist, or has too few classes or images.
    """
    root = user_path(config.dir, "config.data.dir")
    if not os.path.isdir(root):
        raise UserError(f"The image folder {str(root)!r} does not exist, or is not a folder. Check --config.data.dir.")
    folders = _find_splits(root)
    found = [_list_classes(folder) for folder in folders]
    if len(found) == 2:
        train, test = found
        _check_same_classes(folders, train, test)
    else:
        train, test = {}, {}
        rng = np.random.default_rng([config.seed, 0])
        for name, files in found[0].items():
            if len(files) < 2:
                raise UserError(
                    f"The class folder {root / name} has 1 image, but needs 2, to train and to test. Add more."
                )
            files = [files[i] for i in rng.permutation(len(files))]
            count = min(max(round(len(files) * config.test_fraction), 1), len(files) - 1)
            train[name], test[name] = files[count:], files[:count]
    splits = [[(path, k) for k, name in enumerate(train) for path in split[name]] for split in (train, test)]
    try:
        stats = [(path, label, path.stat()) for path, label in splits[0] + splits[1]]
    except OSError as error:
        raise UserError(f"The image {error.filename} cannot be read ({error.strerror}).") from error
    _tell_unused(root, [path for path, _, _ in stats])

    def decode() -> Iterator[Dataset]:
        # Files are sorted by class; shuffled, the first n of them have all classes.
        rng = np.random.default_rng([config.seed, 1])
        for split in splits:
            paths, labels = zip(*(split[i] for i in rng.permutation(len(split))), strict=True)
            yield Dataset(decode_files(paths, config), np.array(labels, np.int32), tuple(train))

    listing = [(str(path.relative_to(root)), label, s.st_size, s.st_mtime_ns) for path, label, s in stats]
    return Source({"kind": "folder", "classes": list(train), "files": listing, "train": len(splits[0])}, decode)


def _find_splits(root: Path) -> list[Path]:
    """The folders of the training and the test split; `root` alone if it has no such folders."""
    folders = _sub_folders(root)
    train, test, val = ([p for p in folders if p.name.lower() in names] for names in _SPLITS.values())
    if not (train and (test or val)):
        return [root]
    for same in (train, test or val):
        if len(same) > 1:
            these = " and ".join(f"{p.name}/" for p in same)
            raise UserError(f"{root} has {these}, which mean the same split. Rename one, or move it elsewhere.")
    if not test:
        print(_printable(f"{root}: {val[0].name}/ serves as the test split, as there is no test/."))
    return [train[0], (test or val)[0]]


def _list_classes(root: Path) -> Classes:
    """The image files of each class, which is a sub-folder; classes are in natural order (2 before 10)."""
    folders = _sub_folders(root)
    if len(folders) < 2:
        found = f"only {folders[0].name!r}" if folders else "no sub-folder"
        raise UserError(f"{root} must hold two or more folders of PNG or JPEG images, one a class; it has {found}.")
    classes: Classes = {}
    for folder in folders:
        if _UNPRINTABLE.search(folder.name):
            raise UserError(f"The class folder {str(folder)!r} has a name that is not printable UTF-8. Rename it.")
        name = unicodedata.normalize("NFC", folder.name)
        if name in classes:
            raise UserError(
                f"{root} has two class folders {name!r}, which Unicode spells in two ways "
                f"({classes[name][0].parent.name!a} and {folder.name!a}). Rename one, or merge them."
            )
        classes[name] = list_images(folder)
    return {name: classes[name] for name in sorted(classes, key=_natural)}


def _natural(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(re.split(r"(\d+)", name))  # text and digits in turn
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def _check_same_classes(folders: Sequence[Path], train: Classes, test: Classes) -> None:
    odd = {folders[0]: train.keys() - test.keys(), folders[1]: test.keys() - train.keys()}
    if said := [f"only {p.name}/ has {', '.join(map(repr, sorted(n, key=_natural)))}" for p, n in odd.items() if n]:
        raise UserError(
            f"{folders[0].parent}: {folders[0].name}/ and {folders[1].name}/ must have the same classes, but "
            f"{' and '.join(said)}. Add images of them to the other, or move these folders elsewhere."
        )


def _tell_unused(root: Path, files: Sequence[Path]) -> None:
    """Prints how many files below `root` are not among `files`, and the first of them; hidden ones do not count."""
    classes = {path.parent for path in files}
    folders = {root} | classes | {path.parent for path in classes}
    used = folders.union(files)
    others = [path for folder in sorted(folders) for path in _visible(folder) if path not in used]
    counts = {path: _count_files(path) for path in others}
    names = [
        f"{p.relative_to(root)}" + (f"/ ({n} file{'s' * (n > 1)})" if p.is_dir() else "")
        for p, n in counts.items()
        if n
    ]
    if names:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        these = ", ".join(names[:_MAX_NAMED])
        print(_printable(f"{root}: {sum(counts.values())} file(s) are not used: {these}{more}."))


def _visible(folder: Path) -> list[Path]:
    with reading(f"The folder {folder}", IF_UNREADABLE):
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _sub_folders(folder: Path) -> list[Path]:
    with reading(f"The folder {folder}", IF_UNREADABLE):
        return [p for p in _visible(folder) if p.is_dir()]


def _count_files(path: Path) -> int:
    """Files below a folder, hidden ones apart. What cannot be opened as a folder, such as a file, counts as one."""
    count, others = 0, list[OSError]()
    for _, folders, names in os.walk(path, onerror=others.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += sum(not name.startswith(".") for name in names)
    return count + len(others)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
