"""What the phases of a training share, and what they ask of whoever takes their steps."""

import abc
import dataclasses
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
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

T = TypeVar("T")


def say(text: str) -> None:
    """A line on the terminal, above the bar if there is one."""
    tqdm.write(text)
    sys.stdout.flush()


@dataclasses.dataclass
class Run:
    config: Config
    folder: Path
    splits: Splits
    model: InfoAutoencoder
    mesh: Mesh  # the devices that share its steps, on all hosts
    near: Mesh  # those of this host, which compute what needs no steps
    checkpoints: Checkpoints | None  # None on all hosts but the first
    stop: Callable[[int], bool]  # asked after each step, with its number
    tensorboard: Any = None  # a tensorboardX writer
    writes: bool = True  # False on all hosts but the first
    say: Callable[[str], None] = say
    bar: bool = True
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)  # by runs on the same images

    @property
    def align_batch(self) -> int:
        """Latents in a step of the alignment: as configured, or as many as there are, shared equally by the devices."""
        most = min(self.config.alignment.batch_size, len(self.splits.train))
        return max(most // self.mesh.size, 1) * self.mesh.size

    @property
    def steps(self) -> tuple[int, int, int]:
        """At which step each phase is done."""
        count, train, align = len(self.splits.train), self.config.train, self.config.alignment
        per_epoch = count // train.batch_size
        first = per_epoch * train.epochs
        second = first + (count // self.align_batch * align.epochs if self.model.couplings else 0)
        return first, second, second + per_epoch * self.config.refine.epochs

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def looks(self) -> np.ndarray:
        """`appearance.appearance_features` of the training images."""
        if "looks" not in self.shared:
            train = self.splits.train
            self.shared["looks"] = appearance_features(train.images, train.labels, self.model.num_classes)
        return self.shared["looks"]

    def latents(self, state: TrainState, name: str) -> np.ndarray:
        """What the model's method `name` ('encode_unbounded', 'encode') gives for the training images, in order."""
        images = self.splits.train.images
        apply = make_batched(model_method(self.model, name), self.near, images.shape[1] * images.shape[2])
        return apply({"params": hosts.local(state.params)}, images)

    def save(self, at: int, state: TrainState) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(at, state)

    def log(self, kind: str, at: int, **values: float) -> None:
        if not self.writes:
            return
        append_metrics(self.folder, kind, step=at, **values)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(f"{kind}/{name}", value, at)


class Take(NamedTuple):
    """A phase asks for a step, or several.

    kind    carry                             arguments                               answer
    train   the state                         steps done, steps that may be taken     carry, metrics, steps taken
    align   parameters and `init_training`    tables, rows, targets, progress         carry, metrics
    refine  the state                         tables, rows, targets, progress         carry, metrics

    `tables` are arrays of the host with a row for each training image, the same ones throughout a phase; the step gets
    those `rows` of them. The carry is donated. Carry and metrics of the answer are to be read through `own`.
    """

    kind: str
    at: int  # steps done
    carry: Any
    arguments: tuple[Any, ...]


# A phase is a generator, so that one and the same code trains a run alone (`train.py`) and in a group (`together.py`).
Phase = Generator[Take, Any, T]


class Share(abc.ABC):
    """One run's part of what a group holds."""

    @abc.abstractmethod
    def own(self) -> Any:
        """The part itself, on the host."""


def own(value: Any) -> Any:
    """`value`, or the part of it that is this run's."""
    return value.own() if isinstance(value, Share) else value
