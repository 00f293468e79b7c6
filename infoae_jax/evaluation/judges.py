"""Judges: convolutional networks that read the class of an image, to score swaps. Never part of a training loss.

Three of different shapes and seeds are trained on real training images (shifted at random), cached with the data set
and used for every run on it. Their accuracy on real test images is reported with their verdicts; if it is below a
threshold that is known to be reachable on the data set, the figures that rest on judges are marked as untrusted.
"""

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Callable

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from infoae_jax.config import DataConfig
from infoae_jax.data.cache import data_cache_folder
from infoae_jax.data.dataset import Splits
from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.evaluation.classifier import batch_size, each_on_a_device, fit_classifier
from infoae_jax.files import write_atomically
from infoae_jax.images.pixels import to_float
from infoae_jax.images.views import shift_images
from infoae_jax.models.convolution import Conv

VERSION = 1  # raise it whenever the same images give other judges
NUM_STEPS = 2600  # of training, in at least two passes
MAX_EPOCHS = 60
MAX_SHIFT = 2  # pixels by which training images are moved
THRESHOLDS = {"mnist": 0.993, "rendered": 0.93, "svhn_cropped": 0.93}
CONVOLUTIONS = ((24, 5, 2), (48, 5, 2)), ((32, 3, 2), (32, 3, 1), (64, 3, 2)), ((24, 4, 2), (48, 3, 2), (96, 3, 2))
HIDDEN, DROPOUT = 256, 0.4
Images = UInt8[np.ndarray, "n h w c"]


class Judge(nn.Module):
    """Convolutions (filters, kernel, stride) with batch normalisation and ReLU, a hidden layer with dropout, logits.

    Without `top` it returns the hidden layer.
    """

    num_classes: int
    convolutions: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w c"], train: bool = False, top: bool = True) -> Float[Array, "b f"]:
        x = jnp.asarray(to_float(images))
        for filters, kernel, stride in self.convolutions:
            x = Conv(filters, (kernel, kernel), (stride, stride))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Dense(HIDDEN)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes)(nn.Dropout(DROPOUT, deterministic=not train)(x)) if top else x

    def features(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b f"]:
        return self(images, top=False)


@dataclasses.dataclass(frozen=True)
class Judges:
    """The trained judges of one data set."""

    accuracies: tuple[float, ...]  # on real test images
    threshold: float  # that each should reach
    predict: Callable[[Images], Int[np.ndarray, "judges n"]]  # the class that each reads
    features: Callable[[Images], Float[np.ndarray, "n f"]]  # the first judge's penultimate layer

    @property
    def are_trusted(self) -> bool:
        return min(self.accuracies) >= self.threshold


def load_judges(config: DataConfig, splits: Splits, mesh: Mesh, say: Callable[[str], None] = print) -> Judges:
    """Loads the judges of a data set from its cache, or trains them (a few minutes on two cores for MNIST).

    Args:
      splits: training images for the judges, and test images that their accuracy is measured on.
      mesh: the devices that share each batch when judges are used.
    """
    modules = [Judge(len(splits.train.class_names), convolutions) for convolutions in CONVOLUTIONS]
    shapes = [(convolutions, HIDDEN, DROPOUT) for convolutions in CONVOLUTIONS]
    key = [VERSION, NUM_STEPS, MAX_EPOCHS, MAX_SHIFT, shapes, splits.fingerprint]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = data_cache_folder(config) / f"judges-{config.name.replace('/', '-')}-{digest}.msgpack"
    try:
        trained = flax.serialization.msgpack_restore(path.read_bytes())["judges"]
    except (OSError, ValueError, KeyError):  # missing or damaged
        say("Training three judges on this data set. This takes minutes; later evaluations reuse them.")
        images, labels = splits.train.images, splits.train.labels
        epochs = min(max(round(NUM_STEPS * batch_size(len(images)) / len(images)), 2), MAX_EPOCHS)
        fits = [
            functools.partial(fit_classifier, module, images, labels, epochs, seed, augment)
            for seed, module in enumerate(modules)
        ]
        trained = [jax.device_get(variables) for variables, _ in each_on_a_device(fits)]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, flax.serialization.msgpack_serialize({"judges": trained}))
        except OSError as error:  # they serve this evaluation all the same
            warnings.warn(f"The judges could not be kept in {path.parent} ({error}).", stacklevel=2)

    def batched(judge: int, method: str) -> Callable[[Images], np.ndarray]:
        pixels = splits.test.images.shape[1] * splits.test.images.shape[2]
        return functools.partial(make_batched(model_method(modules[judge], method), mesh, pixels), trained[judge])

    logits = [batched(judge, "__call__") for judge in range(len(modules))]

    def predict(images: Images) -> Int[np.ndarray, "judges n"]:
        return np.stack([function(images).argmax(1) for function in logits])

    accuracies = (predict(splits.test.images) == splits.test.labels).mean(1).tolist()
    return Judges(tuple(accuracies), trust_threshold(config.name, len(splits.train)), predict, batched(0, "features"))


def trust_threshold(name: str, num_train: int) -> float:
    """The accuracy that judges of the data set `name` should reach with `num_train` training images."""
    return 0.85 if name == "svhn_cropped" and num_train < 20_000 else THRESHOLDS.get(name, 0.9)


def augment(images: UInt8[Array, "b h w c"], key: PRNGKeyArray) -> UInt8[Array, "b h w c"]:
    """Images, each shifted by up to `MAX_SHIFT` pixels in both directions."""
    return shift_images(images, jax.random.randint(key, (2, len(images)), -MAX_SHIFT, MAX_SHIFT + 1))
