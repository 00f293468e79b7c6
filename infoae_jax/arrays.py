"""Arrays in .npz files, read with care: their headers may claim more than the memory has."""

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infoae_jax.files import regular_size


class Signature(NamedTuple):
    """What an array in a file is said to be."""

    shape: tuple[int, ...]
    dtype: np.dtype


def npz_signatures(archive: zipfile.ZipFile, limit: int) -> dict[str, Signature]:
    """What the arrays of an .npz file are, by name. None is read: a small file can stand for more than the memory has.

    Raises:
      ValueError: if they are larger than `limit` bytes together, or one has another size than its file.
    """
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked all at once
            raise ValueError(f"{member.filename} is compressed in an unusual way")
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    if (size := sum(member.file_size for member in members)) > limit:
        raise ValueError(f"its arrays would take {size / 1e6:,.0f} MB, more than {limit / 1e6:,.0f}")
    found = {}
    for member in members:
        with archive.open(member) as file:
            is_first = np.lib.format.read_magic(file) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(f"{member.filename} is {dtype}{list(shape)}, which is not its size")
        found[member.filename.removesuffix(".npy")] = Signature(shape, dtype)
    return found


def read_arrays(path: Path, limit: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Args:
      limit: bytes of memory that they may take; by default, as many as the file has, as it is not compressed.

    Raises:
      Exception: of many kinds, if it is damaged.
    """
    size = regular_size(path)
    with zipfile.ZipFile(path) as archive:
        names = npz_signatures(archive, size if limit is None else limit)
        return {name: read_array(archive, name) for name in names}


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)
