"""Models that come with the package. Each has a card, `NAME.md` in this folder, with its data, figures and limits."""

import os
from pathlib import Path

from infoae_jax.errors import UserError
from infoae_jax.files import user_path

FOLDER = Path(__file__).parent


def pretrained_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def find_model(run: str | os.PathLike[str]) -> Path:
    """The path of a run folder or an exported .npz file, or of a pretrained model by its name.

    A file or run folder of that name comes first; any other folder, for instance of data, does not.

    Raises:
      UserError: if there is none of these, or it cannot be a path.
    """
    path = user_path(run, "the model")
    if str(run) in pretrained_names() and not (path.is_file() or (path / "config.json").exists()):
        return FOLDER / f"{run}.npz"
    if path.exists():
        return path
    known = ", ".join(pretrained_names())
    raise UserError(f"There is no run folder, exported .npz file or pretrained model ({known}) called {str(run)!r}.")
