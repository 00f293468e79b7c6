"""What the phases of a training share, and what they ask of whoever takes their steps."""

import dataclasses
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from tqdm import tqdm

from infoae_jax.config import Config
from infoae_jax.data.dataset import Splits
from infoae_jax.devices import hosts
from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.training.appearance import appearance_features
from infoae_jax.training.state import TrainState
from infoae_jax.types import Tree

T = TypeVar("T")
PhaseKind: TypeAlias = Literal["train", "align", "refine"]


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
    mesh: Mesh  # the devices that share its steps, on all hosts
    local_mesh: Mesh  # those of this host, which compute latents, test metrics and samples
    should_stop: Callable[[int], bool]  # asked after each step, with the number of steps done
    print: Callable[[str], None] = print_above_bar
    has_bar: bool = True
    shared: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by the runs of a group
    checkpoints: Checkpoints | None = None
    tensorboard: Any = None  # a tensorboardX writer

    @property
    def align_batch(self) -> int:
        """Latents in a step of the alignment: as configured, or all there are, but a multiple of the devices."""
        size = min(self.config.alignment.batch_size, len(self.splits.train))
        return max(size // self.mesh.size, 1) * self.mesh.size

    @property
    def steps(self) -> tuple[int, int, int]:
        """The numbers of steps after which autoencoder, alignment and refinement are done."""
        count, train, align = len(self.splits.train), self.config.train, self.config.alignment
        per_epoch = count // train.batch_size
        first = per_epoch * train.epochs
        second = first + (count // self.align_batch * align.epochs if self.model.couplings else 0)
        return first, second, second + per_epoch * self.config.refine.epochs

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds in full."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def appearance(self) -> Float[np.ndarray, "n f"]:
        """`appearance.appearance_features` of the training images."""
        if "appearance" not in self.shared:
            train = self.splits.train
            self.shared["appearance"] = appearance_features(train.images, train.labels, self.model.num_classes)
        return self.shared["appearance"]

    def latents(self, state: TrainState, method: Literal["encode_unbounded", "encode"]) -> Float[np.ndarray, "n z"]:
        """What `method` of the model returns for the training images."""
        images = self.splits.train.images
        apply = make_batched(model_method(self.model, method), self.local_mesh, images.shape[1] * images.shape[2])
        return apply({"params": hosts.local(state.params)}, images)

    def save(self, step: int, state: TrainState) -> None:
        """Saves a checkpoint, on the first host."""
        if self.checkpoints is not None:
            self.checkpoints.save(step, state)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Appends a line to metrics.jsonl, and the values to TensorBoard."""
        if hosts.is_first():
            append_metrics(self.folder, kind, step=step, **values)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(f"{kind}/{name}", value, step)


class StepRequest(NamedTuple):
    """A phase asks for a step, or several.

    kind    carry                        arguments                           answer
    train   the state                    steps done, limit of steps to take  carry, metrics, steps taken
    align   the state of `align_step`    tables, rows, targets, progress     carry, metrics
    refine  the state                    tables, rows, targets, progress     carry, metrics

    `tables` are arrays on the host with a row for each training image, the same ones throughout a phase; the step gets
    those `rows` of them. The carry is donated. Carry and metrics of the answer are to be read through `own_slice`.
    """

    kind: PhaseKind
    step: int  # steps done
    carry: Tree
    arguments: tuple[Any, ...]


# A phase is a generator, so that the same code trains a run alone (`fit.py`) and in a group (`group.py`).
Phase: TypeAlias = Generator[StepRequest, Any, T]


@dataclasses.dataclass(frozen=True)
class Slice:
    """One run's part of arrays that are stacked over the runs of a group."""

    stack: Tree
    index: int

    def block_until_ready(self) -> None:  # `jax.block_until_ready` calls it
        jax.block_until_ready(self.stack)


def own_slice(value: Tree) -> Tree:
    """The arrays of a `Slice`, on the host; anything else as it is."""
    # JAX keeps what it copies to the host: the stack crosses once for all runs.
    return jax.tree.map(lambda x: np.asarray(x)[value.index], value.stack) if isinstance(value, Slice) else value
