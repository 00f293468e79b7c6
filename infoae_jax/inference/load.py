"""Loads a trained model from a run folder, an exported file, or the package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from infoae_jax.errors import UserError
from infoae_jax.inference.model import Model
from infoae_jax.inference.npz import NpzModel, read_npz
from infoae_jax.inference.styles import StyleBank, load_style_bank
from infoae_jax.models.autoencoder import InfoAutoencoder, build
from infoae_jax.pretrained.find import find_model
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import read_info, read_record
from infoae_jax.training.state import init_state


def load(run: str | Path, step: int | None = None, data_dir: str | None = None) -> Model:
    """The trained model of a run folder, finished or still running; of an exported file; or one that comes with this.

        trained = infoae_jax.load("runs/mnist")
        swaps = trained.transfer("a.png", content=7)

    Args:
      run: the run folder, an .npz file of `infoae export`, or the name of a model in the package (see `boxed`).
      step: which checkpoint of the run; the newest one by default.
      data_dir: where the run's data set is, if not where the run found it. Only styles that are not yet kept need it.

    Raises:
      UserError: if there is no such model, it has no (sound) checkpoint, or its file is damaged.
    """
    return open_model(run, step, data_dir).trained


class Source(NamedTuple):
    """A model, the record of its run (config.json), and what else its file holds and says, if it is one."""

    trained: Model
    record: dict[str, Any]
    extras: Mapping[str, np.ndarray] | None
    about: Mapping[str, Any]


def open_model(run: str | Path, step: int | None = None, data_dir: str | None = None) -> Source:
    """As `load`, with what goes into another file of the model."""
    path = find_model(run)
    if path.is_file():
        if step is not None:
            raise UserError(f"step is {step}, but {str(path)!r} is a file and holds one model only. Leave it out.")
        saved = read_npz(path)
        about = {name: saved.description[name] for name in ("figures",) if name in saved.description}
        return Source(model_of_npz(saved), saved.description["run"], saved.extras, about)
    at, model, variables = restore_variables(path, step)

    def kept(trained: Model) -> StyleBank:
        return load_style_bank(path, at, trained._encode, data_dir)

    return Source(Model(model, variables, read_info(path), kept, at), read_record(path), None, {})


def model_of_npz(saved: NpzModel) -> Model:
    """The model of an exported file. Its styles are those that were exported with it.

    Raises:
      UserError: if these are no styles of this model.
    """

    def none(_: Model) -> StyleBank:
        raise UserError("No styles of training images were exported with this model.")

    z, labels = saved.extras.get("styles/z"), saved.extras.get("styles/labels")
    kept: StyleBank | Callable[[Model], StyleBank] = none
    if z is not None and labels is not None:
        good = z.ndim == 2 and z.shape[0] > 0 and z.shape[1] == saved.model.bottleneck and np.isfinite(z).all()
        good = good and labels.shape == z.shape[:1] and labels.dtype.kind in "iu"
        if not good or labels.min() < 0 or labels.max() >= len(saved.info.class_names):
            raise UserError(
                f"The styles in the file are {z.dtype}{list(z.shape)} with classes {labels.dtype}{list(labels.shape)}, "
                f"which are none of its model. Export it again."
            )
        kept = StyleBank(z.astype(np.float32), labels.astype(np.int32))
    return Model(saved.model, saved.variables, saved.info, kept, saved.description.get("step"))


def restore_variables(run: str | Path, step: int | None = None) -> tuple[int, InfoAutoencoder, dict[str, Any]]:
    """The checkpoint's step, the model, and its variables, of a run folder as in `load`."""
    run = Path(run)
    info = read_info(run)
    model = build(info.config.model, info.image_shape, len(info.class_names), info.config.train.dtype)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    # Not the optimiser's state: three times the memory, and another version of the code may keep another one.
    shapes = jax.eval_shape(lambda: init_state(model, 0).params)
    abstract = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    restored = None
    if (run / "checkpoints").is_dir():
        with Checkpoints(run) as checkpoints:
            restored = checkpoints.restore(abstract, step, "params")
    if restored is None:
        raise UserError(f"{str(run)!r} has no checkpoint yet. Train it first, or wait for its first checkpoint.")
    return restored[0], model, {"params": restored[1]}
