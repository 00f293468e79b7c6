"""Atomic writes, and the user's cache folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from platformdirs import user_cache_path


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


def cache_folder() -> Path:
    """The default folder for what can be computed again; it need not exist yet.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    return user_cache_path("infoae_jax").expanduser()  # raises if platformdirs could not resolve '~'
