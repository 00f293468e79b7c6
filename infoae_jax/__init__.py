"""Separates the style and the content of labelled images: an Info-autoencoder in JAX.

    model = infoae_jax.load("runs/mnist")
    swaps = model.transfer(["a.png", "b.png"], content=7).images

docs/pages/python.md has the rest.
"""
# ruff: noqa: F401 (the names are exported)

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infoae_jax.config import Config, parse
    from infoae_jax.errors import DivergedError, UserError
    from infoae_jax.evaluation.measure import evaluate_run
    from infoae_jax.inference.load import load
    from infoae_jax.inference.model import Model, Prediction, Transfer
    from infoae_jax.inference.styles import StyleBank
    from infoae_jax.runs.folder import RunInfo, read_info
    from infoae_jax.training.fit import fit

# Imported on first use, as JAX and Orbax take a second and reading the files of a run needs neither.
_EXPORTS = {
    "config": ("Config", "parse"),
    "errors": ("DivergedError", "UserError"),
    "evaluation.measure": ("evaluate_run",),
    "inference.load": ("load",),
    "inference.model": ("Model", "Prediction", "Transfer"),
    "inference.styles": ("StyleBank",),
    "runs.folder": ("RunInfo", "read_info"),
    "training.fit": ("fit",),
}
__all__ = sorted(name for names in _EXPORTS.values() for name in names)


def __getattr__(name: str) -> object:
    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(importlib.import_module(f"infoae_jax.{module}"), name)
    raise AttributeError(f"module 'infoae_jax' has no attribute {name!r}")
