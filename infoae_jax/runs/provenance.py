"""What a result was made with: versions, machine, code."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "tensorflow-datasets")


def environment() -> dict[str, Any]:
    """Versions, machine and code identity, to be kept beside every result (without touching a device)."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"python": platform.python_version(), "platform": platform.platform(), **versions, "code": code_version()}


def code_version() -> dict[str, Any]:
    """Package version, a hash of its source files, and the git commit if it runs from a checkout."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    result: dict[str, Any] = {"source": digest.hexdigest()[:16]}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        result["version"] = importlib.metadata.version("infoae_jax")
    with contextlib.suppress(OSError, subprocess.SubprocessError):

        def git(*args: str) -> str:
            command = ["git", "-C", str(package), *args]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        if tracked:  # otherwise the package only happens to lie inside somebody's repository
            result["commit"] = git("rev-parse", "HEAD")
            result["modified"] = bool(git("status", "--porcelain", "--", "."))
    return result


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
