"""Files: atomic writes, and the user's cache folder."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes under a temporary name and renames: whoever reads `path` sees all of it or what was there before."""
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
    """Where this project keeps what it can make again, by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infoae_jax"
