"""Use of a finished or running run from Python."""

from pathlib import Path
from typing import Any

import jax

from infoae_jax import runlog
from infoae_jax.checkpoint import Checkpoints
from infoae_jax.errors import UserError
from infoae_jax.model import InfoAutoencoder, build
from infoae_jax.step import init_state


def load(run: str | Path, step: int | None = None) -> tuple[InfoAutoencoder, dict[str, Any]]:
    """The trained model of a run folder, finished or still running.

        model, variables = infoae_jax.load("runs/mnist")
        swapped = model.apply(variables, style_images, labels, method="transfer")

    `infoae_jax.read_info(run)` gives the run's configuration and class names.

    Args:
      run: the run folder.
      step: which checkpoint; the newest one by default.

    Raises:
      UserError: if the folder is no run, or has no (sound) checkpoint.
    """
    _, model, variables = restore(run, step)
    return model, variables


def restore(run: str | Path, step: int | None = None) -> tuple[int, InfoAutoencoder, dict[str, Any]]:
    """As `load`; also says which step the checkpoint is of."""
    run = Path(run)
    info = runlog.read_info(run)
    model = build(info.config.model, info.image_shape, len(info.class_names), info.config.train.dtype)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Not the optimiser's state: three times the memory, and another version of the code may keep another one.
    shapes = jax.eval_shape(lambda: init_state(model, info.config.train, 0).params)
    abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    restored = None
    if (run / "checkpoints").is_dir():
        with Checkpoints(run) as checkpoints:
            restored = checkpoints.restore(abstract, step, "params")
    if restored is None:
        raise UserError(f"{str(run)!r} has no checkpoint yet. Train it first, or wait for its first checkpoint.")
    return restored[0], model, {"params": restored[1]}
