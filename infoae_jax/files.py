"""Paths that users give, atomic writes, JSON files read as typed values, and the user's cache folder."""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec
from platformdirs import user_cache_path

from infoae_jax.errors import UserError

T = TypeVar("T")
_MAX_JSON_BYTES = 64 << 20
_MAX_REASON = 150  # characters
_MAX_NAME_BYTES = 255  # of each part of a path, on all common file systems
_MAX_PATH_BYTES = 3500  # of the 4096 that Linux allows: the rest is for what lies in a folder
_MAX_PREFIX = 50  # characters of a temporary name, so that it is not longer than file systems allow


def user_path(given: str | os.PathLike[str], what: str) -> Path:
    """The path that a user gave, with `~` for a home folder.

    Args:
      what: its name in errors: that of the option or setting.

    Raises:
      UserError: if no file can have this path, or it is a URL.
    """
    text = os.fspath(given)
    try:
        path = Path(text).expanduser()
        sizes = [len(os.fsencode(part)) for part in path.parts]
        size = len(os.fsencode(path.absolute()))
    except (OSError, RuntimeError, ValueError) as error:  # no such home or working folder, or no such file names
        raise UserError(f"{what} is {text!r}, which cannot be a path ({error}). Give another.") from error
    if not text.strip():
        raise UserError(f"{what} is {text!r}, but must name a file or folder.")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise UserError(f"{what} is {text!r}, but a path must not hold line breaks or other control characters.")
    if re.match(r"[A-Za-z][\w+.-]+:/", text):
        raise UserError(f"{what} is {text!r}, but must be a path on this machine, not a URL.")
    if max(sizes, default=0) > _MAX_NAME_BYTES or size > _MAX_PATH_BYTES:
        shown = f"{text[:40]}...{text[-20:]}"
        raise UserError(f"{what} is {shown!r}, which is too long ({len(text)} characters). Choose a shorter one.")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces `path` when the block ends: readers see all of it, or the former content."""
    prefix = f".{path.name[:_MAX_PREFIX]}-"
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows replaces and removes no open file
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):  # it writes what is left, in vain
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to a file that everyone may read, by `replacing`."""
    with replacing(path) as file:
        file.write(data)
        os.chmod(file.name, 0o644)


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a file; `ValueError` if it has more than `limit`, or is a pipe or device, which would block."""
    size = regular_size(path)
    if limit is not None and size > limit:
        raise ValueError(f"it has {size:,} bytes")
    return path.read_bytes()


def regular_size(path: Path) -> int:
    """The bytes that a file has; `ValueError` if it is a pipe or device, on which opening it would block."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a regular file")
    return found.st_size


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """The content of a JSON file as a `kind`, which msgspec checks: a `TypedDict`, for instance.

    Raises:
      FileNotFoundError: if there is no such file.
      UserError: if it cannot be read or is nothing of the kind; `advice` says what to do.
    """
    try:
        return msgspec.json.decode(read_regular(path, _MAX_JSON_BYTES), type=kind)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(path)!r} is damaged ({explain(error)}). {advice}") from error


def explain(error: Exception) -> str:
    """The first line of what an error says, or else its name."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."


def cache_folder() -> Path:
    """The default folder for what can be computed again; it need not exist yet, and cannot be made without a home."""
    with contextlib.suppress(RuntimeError):  # if there is no home folder
        return user_cache_path("infoae_jax").expanduser()  # raises if platformdirs left '~' as it is
    return Path(os.devnull, "infoae_jax")
