"""A model that need not be trained to be exported or shown."""

import json

import jax
import numpy as np

from infoae_jax.config import parse, to_dict
from infoae_jax.inference.description import Bundle
from infoae_jax.inference.model import Model
from infoae_jax.models.autoencoder import build, fresh_variables
from infoae_jax.runs.folder import FORMAT, parse_record


def random_bundle(config, image_shape, class_names, style_bank=None):
    """Random variables, as an alignment starts as the identity.

    config: a ConfigDict.
    """
    config = parse(config)
    data = {"image_shape": image_shape, "class_names": class_names, "num_train": 5, "num_test": 5, "fingerprint": "x"}
    record = json.loads(json.dumps({"format": FORMAT, "config": to_dict(config), "data": data}))
    module = build(config.model, image_shape, len(class_names))
    fresh = fresh_variables(module, 0)
    rng = np.random.default_rng(0)

    def fill(s):
        return rng.normal(0, 1.4 / np.sqrt(max(np.prod(s.shape[:-1]), 50)), s.shape).astype(np.float32)

    constants = jax.tree.map(lambda x: x + fill(x), fresh["constants"])
    variables = {"params": jax.tree.map(fill, fresh["params"]), "constants": constants}
    return Bundle(Model(module, variables, parse_record(record, "record"), style_bank), record, {}, {})
