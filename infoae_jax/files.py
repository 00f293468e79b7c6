"""Atomic writes, JSON files and arrays read with care, and the user's cache folder."""

import contextlib
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import msgspec
import numpy as np
from platformdirs import user_cache_path

from infoae_jax.errors import UserError

T = TypeVar("T")
_MAX_JSON_BYTES = 64 << 20


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces `path` when the block ends: readers see all of it, or the former content."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to a file that everyone may read, by `replacing`."""
    with replacing(path) as file:
        file.write(data)
        os.chmod(file.name, 0o644)


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """The content of a JSON file as a `kind`, which msgspec checks: a `TypedDict`, for instance.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if it cannot be read or is nothing of the kind; `advice` says what to do.
    """
    try:
        if (size := path.stat().st_size) > _MAX_JSON_BYTES or not path.is_file():
            raise ValueError(f"it has {size:,} bytes" if path.is_file() else "it is no file")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is damaged ({explain(error)}). {advice}") from error


def explain(error: Exception) -> str:
    """The first line of what an error says, or else its name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that is not compressed, so that it takes no more memory than it has bytes.

    Raises:
      Exception: of many kinds, if it is damaged.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        names = npz_signatures(archive, os.fstat(file.fileno()).st_size)
        return {name: read_array(archive, name) for name in names}


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def cache_folder() -> Path:
    """The default folder for what can be computed again; it need not exist yet.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    return user_cache_path("infoae_jax").expanduser()  # raises if platformdirs could not resolve '~'
