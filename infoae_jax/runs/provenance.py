"""The provenance of a result: versions, machine and code."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TypeAlias

Environment: TypeAlias = dict[str, str | dict[str, str | bool]]  # what `environment` returns

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "tensorflow-datasets")


def environment() -> Environment:
    """Versions, machine and code, to be kept with every result. Touches no device."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions, "code": code_version()}


def code_version() -> dict[str, str | bool]:
    """The package's version, a hash of its source files and, in a checkout, its git commit."""
    package = Path(__file__).parents[1]
    sources = (path.name.encode() + path.read_bytes() for path in sorted(package.rglob("*.py")))
    result: dict[str, str | bool] = {"source": hashlib.sha256(b"".join(sources)).hexdigest()[:16]}
    if version := _version("infoae_jax"):
        result["version"] = version

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", "__init__.py")  # fails if the package only lies inside another repository
        result |= {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--", "."))}
    return result


def now() -> str:
    """The time in UTC, as ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
