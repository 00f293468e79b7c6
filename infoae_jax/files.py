"""Atomic writes, and the user's cache folder."""

import contextlib
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file and renames it, so that a reader of `path` sees all of `data` or the former content."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def cache_folder() -> Path:
    """The default folder for what can be computed again; it need not exist yet.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    return user_cache_path("infoae_jax").expanduser()  # raises if platformdirs could not resolve '~'
