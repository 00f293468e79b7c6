"""Pulls the style and the content of labelled images apart: an Info-autoencoder in JAX.

    trained = infoae_jax.load("runs/mnist")
    swaps = trained.transfer(["a.png", "b.png"], content=7).images

README.md has the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoae_jax.errors import DivergedError, UserError
    from infoae_jax.runlog import RunInfo, read_info
    from infoae_jax.train import fit
    from infoae_jax.transfer import Trained, load

__all__ = ["DivergedError", "RunInfo", "Trained", "UserError", "fit", "load", "read_info"]

# Imported on first use: Orbax and JAX take a second, and whoever only reads a run's files does not need them.
_HOMES = {
    "DivergedError": "errors",
    "RunInfo": "runlog",
    "Trained": "transfer",
    "UserError": "errors",
    "fit": "train",
    "load": "transfer",
    "read_info": "runlog",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'infoae_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"infoae_jax.{_HOMES[name]}"), name)
