"""Separates the style and the content of labelled images: an Info-autoencoder in JAX.

    model = infoae_jax.load("runs/mnist")
    swaps = model.transfer(["a.png", "b.png"], content=7).images

README.md has the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoae_jax.config import Config, parse
    from infoae_jax.errors import DivergedError, UserError
    from infoae_jax.evaluation.measure import evaluate_run
    from infoae_jax.inference.load import load
    from infoae_jax.inference.model import Model, Prediction, Transfer
    from infoae_jax.inference.styles import StyleBank
    from infoae_jax.runs.folder import RunInfo, read_info
    from infoae_jax.training.fit import fit

# Imported on first use: Orbax and JAX take a second, and whoever only reads a run's files does not need them.
_MODULES = {
    "Config": "config",
    "DivergedError": "errors",
    "Model": "inference.model",
    "Prediction": "inference.model",
    "RunInfo": "runs.folder",
    "StyleBank": "inference.styles",
    "Transfer": "inference.model",
    "UserError": "errors",
    "evaluate_run": "evaluation.measure",
    "fit": "training.fit",
    "load": "inference.load",
    "parse": "config",
    "read_info": "runs.folder",
}

__all__ = [
    "Config",
    "DivergedError",
    "Model",
    "Prediction",
    "RunInfo",
    "StyleBank",
    "Transfer",
    "UserError",
    "evaluate_run",
    "fit",
    "load",
    "parse",
    "read_info",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'infoae_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"infoae_jax.{_MODULES[name]}"), name)
