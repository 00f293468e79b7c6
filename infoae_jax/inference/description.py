"""description.json of an exported model."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infoae_jax.errors import UserError
from infoae_jax.models.autoencoder import InfoAutoencoder

FORMAT = 1
DESCRIPTION = "description.json"
TRAINING_ONLY = "adversary"  # no function above uses it


def describe_images(model: InfoAutoencoder) -> dict[str, Any]:
    height, width, channels = model.image_shape
    return {
        "shape": [height, width, channels],
        "range": "0 .. 1; what is decoded is not clipped to it",
        "channels": "grey" if channels == 1 else "RGB",
    }


def without_paths(run: Mapping[str, Any]) -> dict[str, Any]:
    """The record of config.json without the folders of whoever trained."""
    config = {**run["config"], "data": {**run["config"]["data"], "cache_dir": ""}}
    config["data"]["dir"] = "images" if config["data"]["name"] == "folder" else ""  # a folder must have one
    return {**run, "config": config}


def check_format(description: Mapping[str, Any], path: Path) -> None:
    if description["format"] > FORMAT:
        raise UserError(f"{str(path)!r} was written by a newer version of this package. Use that one to read it.")


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def digest(description: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(stored):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(stored[name]).data)
    return digest.hexdigest()
