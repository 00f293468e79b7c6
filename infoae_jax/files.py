"""Atomic writes, JSON files read as typed values, and the user's cache folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec
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


def cache_folder() -> Path:
    """The default folder for what can be computed again; it need not exist yet.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    return user_cache_path("infoae_jax").expanduser()  # raises if platformdirs could not resolve '~'
