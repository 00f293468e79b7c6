"""Judges: convolutional networks that read the class of a picture, to score swaps. Never part of a training loss.

Three of different shapes and seeds, trained on the real training images only (shifted at random), kept in the cache
folder of the data set and reused for every run on it. Each judge's own accuracy on real test images is reported with
everything it says; below a threshold that is known to be reachable for the data set, its word is marked as untrusted.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from infoae_jax.config import DataConfig
from infoae_jax.data.cache import data_cache_folder
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.devices.batching import make_batched
from infoae_jax.evaluation.classifier import Recipe, each_on_a_device, fit_classifier
from infoae_jax.files import write_atomically
from infoae_jax.images.pixels import to_float
from infoae_jax.models.convolution import Conv

_VERSION = 1  # raise it whenever the same images give other judges
_STEPS = 2600  # of training, in at least two passes
_MOST_EPOCHS = 60
_SHIFT = 2  # pixels by which training images are moved at most
_THRESHOLDS = {"mnist": 0.993, "rendered": 0.93, "svhn_cropped": 0.93}
_THRESHOLD_SMALL_SVHN, _SMALL = 0.85, 20_000
_THRESHOLD_ELSEWHERE = 0.9
Images = UInt8[np.ndarray, "n h w c"]


class Judge(nn.Module):
    """Convolutions (filters, kernel, stride) with batch normalisation and ReLU, a hidden layer with dropout, logits."""

    num_classes: int
    convolutions: tuple[tuple[int, int, int], ...]
    hidden: int = 256
    dropout: float = 0.4

    @nn.compact
    def __call__(
        self, images: UInt8[Array | np.ndarray, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b n"], Float[Array, "b f"]]:
        x = jnp.asarray(to_float(images))
        for filters, kernel, stride in self.convolutions:
            x = Conv(filters, (kernel, kernel), (stride, stride))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(nn.Dropout(self.dropout, deterministic=not train)(x)), x


_SHAPES = (
    ((24, 5, 2), (48, 5, 2)),
    ((32, 3, 2), (32, 3, 1), (64, 3, 2)),
    ((24, 4, 2), (48, 3, 2), (96, 3, 2)),
)


@dataclasses.dataclass(frozen=True)
class Judges:
    """Trained judges of one data set.

    accuracies: of each on real test images; threshold: what they should reach.
    read: the class that each judge reads, [judges, n]. features: the first judge's penultimate layer, [n, 256].
    """

    accuracies: tuple[float, ...]
    threshold: float
    read: Callable[[Images], Int[np.ndarray, "judges n"]]
    features: Callable[[Images], Float[np.ndarray, "n f"]]

    @property
    def trusted(self) -> bool:
        return min(self.accuracies) >= self.threshold


def load_judges(config: DataConfig, splits: Splits, mesh: Mesh, say: Callable[[str], None] = print) -> Judges:
    """The judges of a data set, from the cache or trained now (a few minutes on two cores for MNIST)."""
    num_classes = len(splits.train.class_names)
    modules = [Judge(num_classes, shape) for shape in _SHAPES]
    shapes = [(module.convolutions, module.hidden, module.dropout) for module in modules]
    key = [_VERSION, _STEPS, _MOST_EPOCHS, _SHIFT, shapes, splits.fingerprint]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = data_cache_folder(config) / f"judges-{config.name.replace('/', '-')}-{digest}.msgpack"
    try:
        trained = flax.serialization.msgpack_restore(path.read_bytes())["judges"]
    except (OSError, ValueError, KeyError):  # missing or damaged: made again
        say("Training three judges of this data set (minutes; they are kept for later evaluations) ...")
        fits = [functools.partial(_train, module, splits.train, seed) for seed, module in enumerate(modules)]
        trained = jax.device_get(each_on_a_device(fits))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, flax.serialization.msgpack_serialize({"judges": trained}))

    pixels = splits.test.images.shape[1] * splits.test.images.shape[2]
    readers = [make_batched(functools.partial(_read, module), mesh, pixels) for module in modules]
    first = make_batched(functools.partial(_features, modules[0]), mesh, pixels)

    def read(pictures: Images) -> Int[np.ndarray, "judges n"]:
        return np.stack([reader(variables, pictures) for reader, variables in zip(readers, trained, strict=True)])

    right = read(splits.test.images) == splits.test.labels
    return Judges(
        accuracies=tuple(float(r.mean()) for r in right),
        threshold=_threshold(config.name, len(splits.train)),
        read=read,
        features=lambda pictures: first(trained[0], pictures),
    )


def _threshold(name: str, num_train: int) -> float:
    if name == "svhn_cropped" and num_train < _SMALL:
        return _THRESHOLD_SMALL_SVHN
    return _THRESHOLDS.get(name, _THRESHOLD_ELSEWHERE)


def _train(module: Judge, split: Dataset, seed: int) -> Any:
    batch = 256 if len(split) >= 2048 else 32
    epochs = min(max(round(_STEPS * batch / len(split)), 2), _MOST_EPOCHS)
    return fit_classifier(module, split.images, split.labels, Recipe(epochs, batch), seed, _shifted)[0]


def _shifted(images: UInt8[Array, "b h w c"], key: PRNGKeyArray) -> UInt8[Array, "b h w c"]:
    """Each image moved by up to `_SHIFT` pixels in both directions, its border repeated."""
    n, height, width, _ = images.shape
    shift = jax.random.randint(key, (2, n, 1), -_SHIFT, _SHIFT + 1)
    rows = jnp.clip(jnp.arange(height)[None] + shift[0], 0, height - 1)
    columns = jnp.clip(jnp.arange(width)[None] + shift[1], 0, width - 1)
    return images[jnp.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _read(module: Judge, variables: Any, pictures: UInt8[Array, "b h w c"]) -> Int[Array, " b"]:
    logits, _ = module.apply(variables, pictures, False)
    return jnp.asarray(logits).argmax(1)


def _features(module: Judge, variables: Any, pictures: UInt8[Array, "b h w c"]) -> Float[Array, "b f"]:
    return jnp.asarray(module.apply(variables, pictures, False)[1])
