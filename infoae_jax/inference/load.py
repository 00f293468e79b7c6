"""Loads a trained model from a run folder, from an exported file, or by the name of a pretrained one."""

import functools
from pathlib import Path

import jax
import numpy as np

from infoae_jax.devices.computing import computing
from infoae_jax.errors import UserError
from infoae_jax.inference.description import Bundle
from infoae_jax.inference.model import Model
from infoae_jax.inference.npz import read_npz
from infoae_jax.inference.styles import load_style_bank
from infoae_jax.models.autoencoder import InfoAutoencoder, build, variable_shapes
from infoae_jax.pretrained.find import find_model
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import read_info, read_record
from infoae_jax.types import Variables


def load(run: str | Path, step: int | None = None, data_dir: str | None = None) -> Model:
    """A trained model.

    Args:
      run: a run folder, finished or still running; an .npz file of `infoae export`; or the name of a pretrained model.
      step: which checkpoint of the run; by default, the newest.
      data_dir: where the run's data set is; by default, where the run found it. Needed only to make the style bank.

    Raises:
      UserError: if there is no such model, it has no sound checkpoint, or its file is damaged.
    """
    return load_bundle(run, step, data_dir).model


@computing
def load_bundle(run: str | Path, step: int | None = None, data_dir: str | None = None) -> Bundle:
    """As `load`, with what goes into an export of the model."""
    path = find_model(run)
    if path.is_file():
        if step is not None:
            raise UserError(f"step is {step}, but {str(path)!r} is a file, which holds a single step. Leave it out.")
        return read_npz(path)
    found, module, variables = restore_variables(path, step)
    style_bank = functools.partial(load_style_bank, path, found, data_dir=data_dir)
    return Bundle(Model(module, variables, read_info(path), style_bank, found), read_record(path), {}, {})


def restore_variables(run: str | Path, step: int | None = None) -> tuple[int, InfoAutoencoder, Variables]:
    """A checkpoint of a run folder, by default the newest: its step, the networks and their variables.

    Raises:
      UserError: if it is no run folder, has no such checkpoint, or one with values that are not finite.
    """
    run = Path(run)
    info = read_info(run)
    module = build(info.config.model, info.image_shape, len(info.class_names), info.config.train.dtype)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # The variables alone: the optimiser's state is twice their size, and other versions of the code may differ in it.
    shapes: Variables = variable_shapes(module)
    abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    if (run / "checkpoints").is_dir():
        with Checkpoints(run) as checkpoints:
            if restored := checkpoints.restore(abstract, step, "variables"):
                if not all(np.isfinite(values).all() for values in jax.tree.leaves(restored[1])):
                    raise UserError(
                        f"The checkpoint of step {restored[0]} in {str(run)!r} holds values that are infinite or not a "
                        f"number. Choose another step."
                    )
                return restored[0], module, restored[1]
    raise UserError(f"{str(run)!r} has no checkpoint yet. Train it first, or wait for its first checkpoint.")
