"""A training and its run folder."""

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from infoae_jax.config import Config
from infoae_jax.data.dataset import Splits
from infoae_jax.devices import hosts
from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.devices.mesh import is_cpu
from infoae_jax.errors import UserError
from infoae_jax.images.appearance import appearance_features
from infoae_jax.images.pixels import to_float
from infoae_jax.images.views import NUM_DRAWS, make_views
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, open_run
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import environment, now
from infoae_jax.training.state import TrainState
from infoae_jax.types import Variables

VIEWS_SEED = 0


def print_above_bar(text: str) -> None:
    """Prints a line, on the first host, above the progress bar if there is one."""
    if hosts.is_first():
        tqdm.write(text)
        sys.stdout.flush()


@dataclasses.dataclass
class Run:
    """A training and its run folder, which the first host alone reads and writes."""

    config: Config
    folder: Path
    splits: Splits
    model: InfoAutoencoder
    device: str  # what its steps run on, in words
    local_mesh: Mesh  # the devices that compute latents, test metrics and samples: those of this host
    print: Callable[[str], None] = print_above_bar
    shared: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by the runs of a group
    files: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)  # closes what is open
    checkpoints: Checkpoints | None = None
    tensorboard: Any = None  # a tensorboardX writer

    def open(self, fresh: TrainState) -> TrainState:
        """Opens or makes the folder, which must be locked; returns its newest checkpoint's state, or else `fresh`.

        Raises:
          UserError: if the folder holds another experiment or cannot be written.
        """
        config, splits, names = self.config, self.splits, self.splits.train.class_names
        info = RunInfo(config, self.model.image_shape, names, len(splits.train), len(splits.test), splits.fingerprint)

        def read() -> TrainState:
            open_run(self.folder, info, self.device)
            self.checkpoints = self.files.enter_context(Checkpoints(self.folder, config.checkpoint.keep, wait=is_cpu()))
            if config.log.tensorboard:
                self.tensorboard = self.files.enter_context(_tensorboard(self.folder))
            found = self.checkpoints.restore(fresh)
            return found[1] if found else fresh

        return hosts.from_first(read, fresh)

    def has_ended(self) -> bool:
        """Whether a line says so. It alone proves nothing: the last checkpoint may never have reached the disk."""
        return hosts.from_first(lambda: bool(read_metrics(self.folder, "end")), False)

    def log_start(self, state: TrainState) -> None:
        """Logs and prints what begins; warns if a resumed run goes on elsewhere."""
        if not hosts.is_first():
            return
        step, splits = int(state.step), self.splits
        before = [line["device"] for line in read_metrics(self.folder, "start")][-1:]
        if step and before not in ([], [self.device]):
            warnings.warn(
                f"This run was on {before[0]} and is resumed on {self.device}, so its result will not be the same bit "
                f"for bit (--cpu_devices sets the number of CPU devices).",
                stacklevel=4,
            )
        append_metrics(self.folder, "start", step=step, device=self.device, environment=environment(), time=now())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.variables["params"]))
        self.print(
            f"{self.config.data.name}: {len(splits.train):,} + {len(splits.test):,} images of "
            f"{'x'.join(map(str, self.model.image_shape))}, {self.model.num_classes} classes; {parameters:,} "
            f"parameters; {self.device}; run folder {self.folder}" + (f"; resumed at step {step}" if step else "")
        )

    @property
    def appearance(self) -> Float[np.ndarray, "n v f"]:
        """`appearance_features` of the training images and of their views."""
        if "appearance" not in self.shared:
            labels, classes = self.splits.train.labels, self.model.num_classes
            every = [appearance_features(self.images(view), labels, classes) for view in self.views]
            self.shared["appearance"] = np.stack(every, axis=1)
        return self.shared["appearance"]

    @property
    def views(self) -> range:
        """The numbers of all views; 0 is the image itself."""
        return range(self.config.alignment.views + 1)

    def images(self, view: int) -> UInt8[np.ndarray, "n h w c"]:
        """The training images (view 0), or a view of each; the same in every run.

        Views are made anew for each use, in seconds: all of them would take several times the memory of the images.
        """
        images = self.splits.train.images
        if not view:
            return images
        draws = np.random.default_rng([VIEWS_SEED, view]).uniform(-1, 1, (len(images), NUM_DRAWS))
        batched = make_batched(_make_views, self.local_mesh, images.shape[1] * images.shape[2])
        return batched(None, images, draws.astype(np.float32))

    def apply(self, variables: Variables, method: str, *rows: np.ndarray) -> np.ndarray:
        """What `method` of the model returns, for any number of rows; the local devices share the work."""
        height, width, _ = self.model.image_shape
        return make_batched(model_method(self.model, method), self.local_mesh, height * width)(variables, *rows)

    def latents(
        self, state: TrainState, method: Literal["encode_unbounded", "encode"], view: int = 0
    ) -> Float[np.ndarray, "n z"]:
        """What `method` of the model returns for the training images, or for a view of each."""
        return self.apply(hosts.local(state.variables), method, self.images(view))

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint, on the first host."""
        if self.checkpoints is not None:
            self.checkpoints.save(int(state.step), state)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Appends a line to metrics.jsonl, and the values to TensorBoard."""
        if hosts.is_first():
            append_metrics(self.folder, kind, step=step, **values)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(f"{kind}/{name}", value, step)


def _make_views(_: None, images: UInt8[Array, "b h w c"], draws: Float[Array, "b 11"]) -> UInt8[Array, "b h w c"]:
    return jnp.rint(make_views(to_float(images), draws) * 255).astype(jnp.uint8)


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter  # an extra, which may be missing
    except ImportError as error:
        raise UserError(
            "config.log.tensorboard is True, but tensorboardX is not installed: pip install -e '.[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
