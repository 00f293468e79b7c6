"""What both kinds of export have in common: their contents, and description.json."""

import json
from typing import NamedTuple

import numpy as np

from infoae_jax.inference.model import Model
from infoae_jax.runs.provenance import environment
from infoae_jax.types import Json

FORMAT = 3  # of the exports: the only one that this version reads
DESCRIPTION_FILE = "description.json"


class Bundle(NamedTuple):
    """A model, config.json of its run, further arrays by name, and figures that were measured on the model."""

    model: Model
    record: Json
    extras: dict[str, np.ndarray]
    figures: Json


def describe(bundle: Bundle, contents: str) -> Json:
    """The description of an export, without the folders of whoever trained; `contents` is about its other files."""
    module, record = bundle.model.module, bundle.record
    data = record["config"]["data"]
    data = {**data, "cache_dir": "", "dir": "images" if data["name"] == "folder" else ""}  # a folder must have a name
    return {
        "format": FORMAT,
        "what": f"infoae_jax: {contents}",
        "images": {
            "shape": list(module.image_shape),
            "range": "0 to 1; decoded images are not clipped to it",
            "channels": "grey" if module.image_shape[2] == 1 else "RGB",
        },
        "classes": bundle.model.classes,
        "latent": {"size": module.bottleneck, "kind": module.latent},
        "step": bundle.model.step,
        "figures": bundle.figures,
        "run": {**record, "config": {**record["config"], "data": data}},
        "exported_by": environment(),
    }


def to_json(description: Json) -> bytes:
    return (json.dumps(description, indent=1, allow_nan=False) + "\n").encode()


def from_json(description: bytes) -> Json:
    found = json.loads(description)
    if found["format"] != FORMAT:
        raise ValueError(f"its format is {found['format']!r}, not {FORMAT}")
    return found
