"""Files: atomic writes, and the user's cache folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` at the end: readers see all of it, or what was there before."""
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
    """Writes a whole file, which everyone may read, by `replacing`."""
    with replacing(path) as file:
        file.write(data)
        os.chmod(file.name, 0o644)


def cache_folder() -> Path:
    """Where this project keeps what it can make again, by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infoae_jax"
