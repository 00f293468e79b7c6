"""Models that come with the package, by name; each with a card, `NAME.md` in this folder, that says what it is."""

import os
from pathlib import Path

from infoae_jax.errors import UserError

FOLDER = Path(__file__).parent


def pretrained_names() -> tuple[str, ...]:
    """What `infoae_jax.load` takes for a name."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def model_help() -> str:
    """What `find_model` takes, for --help."""
    known = f", or one of the package's own models: {', '.join(pretrained_names())}" if pretrained_names() else ""
    return f"run folder, exported .npz file{known}"


def find_model(run: str | os.PathLike[str]) -> Path:
    """Where what somebody calls `run` is: a run folder, an exported .npz file, or the file of a model by its name.

    A file or run folder of that name comes first; a folder of something else, for instance of data, does not.

    Raises:
      UserError: if there is none of these.
    """
    path = Path(run)
    boxed = FOLDER / f"{run}.npz" if str(run) in pretrained_names() else None
    if boxed and not (path.is_file() or (path / "config.json").exists()):
        return boxed
    if path.exists():
        return path
    known = f", nor a model that comes with the package ({', '.join(pretrained_names())})" if pretrained_names() else ""
    raise UserError(f"{str(run)!r} is not a run folder, nor an exported .npz file{known}: nothing has that name.")
