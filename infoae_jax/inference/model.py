"""A trained model, with functions on images of any form."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import border, to_float
from infoae_jax.images.read import Images, read_images
from infoae_jax.inference.labels import ClassesLike, as_labels, labels_for
from infoae_jax.inference.styles import Encode, Neighbours, StyleBank, nearest, resample
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.folder import RunInfo
from infoae_jax.types import Variables

ImagesLike: TypeAlias = object  # every form of images that `infoae_jax.images.read` lists

_MAX_LATENT = 1e30  # in any dimension; beyond it float32 overflows
_MIN_CONTRAST = 0.25  # between a decoded image and its border, in brightness; with less, the model decodes nothing yet
_MAX_BORDER_DIFFERENCE = 0.6  # in brightness; beyond it an image must be a negative of what the model knows


class Prediction(NamedTuple):
    """The class that the content classifier reads from each image, and its confidence (a probability).

    Labels are positions in `Model.classes`: where names are other numbers, pass on `np.array(model.classes)[labels]`.
    """

    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]


class Transfer(NamedTuple):
    """Images in [0, 1], their classes, and the classifier's confidence if it read these classes from images."""

    images: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"] | None


class Model:
    """A trained model, with functions on images: arrays, PIL images, files or folders (see `infoae_jax.images.read`).

        model = infoae_jax.load("runs/mnist")
        model.transfer("a.png", 7).images            # the style of a.png with the content 7
        model.transfer(["a.png", "b.png"], "c.png")  # ... with the content of c.png, as the classifier reads it

    Give classes by name or by number. A number is a position in `classes`, unless any class is called by a number other
    than its position: then it is a name. Results are NumPy arrays, always with an axis for several images; images are
    float32 in [0, 1]. Input that cannot work raises a UserError that names it. All local devices share the work, and
    each function is compiled once for each power of two of images. Inside your own `jit`, `vmap` or `grad`, use
    `module.apply(variables, ...)`.

    Attributes:
      module: the flax module, with the methods `encode`, `decode`, `classify` and `transfer`.
      variables: its parameters.
      info: configuration, image shape and data set.
      classes: names of the classes, in the order of their labels.
      step: the training step of the checkpoint, or None if it is not known.
    """

    def __init__(
        self,
        module: InfoAutoencoder,
        variables: Variables,
        info: RunInfo,
        style_bank: StyleBank | Callable[[Encode], StyleBank] | None,
        step: int | None = None,
    ):
        """Puts the parameters on all local devices. `style_bank` may be a function, called on first use."""
        self.module, self.variables, self.info, self.step = module, variables, info, step
        self.classes, self._style_bank = info.class_names, style_bank
        mesh = data_mesh()
        on_devices = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        pixels = module.image_shape[0] * module.image_shape[1]
        self._encode, self._decode, self._classify = (
            functools.partial(make_batched(model_method(module, name), mesh, pixels), on_devices)
            for name in ("encode", "decode", "classify")
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: what it was made from, in NumPy."""
        bank = self.__dict__.get("style_bank", self._style_bank)
        return type(self), (self.module, jax.tree.map(np.asarray, self.variables), self.info, bank, self.step)

    @functools.cached_property
    def style_bank(self) -> StyleBank:
        """Latents of up to 4096 training images. To compute them once, a run needs its data set."""
        if self._style_bank is None:
            raise UserError("This model was exported without style latents. Export it again where its data set is.")
        return self._style_bank if isinstance(self._style_bank, StyleBank) else self._style_bank(self._encode)

    def transfer(
        self, style_images: ImagesLike, content: ClassesLike | ImagesLike, style_labels: ClassesLike = None
    ) -> Transfer:
        """Images with the style of each of `style_images` and the given content.

        Args:
          content: classes, or images whose class the content classifier reads: as many as style images, or one for
            all; or several for a single style image.
          style_labels: classes of the style images; by default, the classifier reads them.
        """
        labels, confidence = self._content(content)
        z = self.encode(style_images, style_labels)
        count = max(len(z), len(labels))
        if min(len(z), len(labels)) not in (1, count):
            raise UserError(f"{len(z)} style images do not go with {len(labels)} contents. Give as many, or just one.")
        confidence = None if confidence is None else np.resize(confidence, count)
        labels = np.resize(labels, count)
        return Transfer(self._generate(np.resize(z, (count, z.shape[1])), labels), labels, confidence)

    def grid(
        self, style_images: ImagesLike, content: ClassesLike | ImagesLike = None, style_labels: ClassesLike = None
    ) -> Float[np.ndarray, "n k h w c"]:
        """Images of every style with every content, by default every class. See `transfer`."""
        labels = np.arange(len(self.classes), dtype=np.int32) if content is None else self._content(content)[0]
        z = self.encode(style_images, style_labels)
        images = self._generate(np.repeat(z, len(labels), axis=0), np.tile(labels, len(z)))
        return images.reshape(len(z), len(labels), *images.shape[1:])

    def interpolate(
        self, style_a: ImagesLike, style_b: ImagesLike, content: ClassesLike | ImagesLike, steps: int = 9
    ) -> Float[np.ndarray, "{steps} h w c"]:
        """Images of one content in evenly spaced styles from that of one image to that of another, both included."""
        labels, _ = self._content(content)
        a, b = self.encode(style_a), self.encode(style_b)
        for name, values in (("style_a", a), ("style_b", b), ("content", labels)):
            if len(values) != 1:
                raise UserError(f"{name} holds {len(values)} items, but must be a single one.")
        if steps < 2:
            raise UserError(f"steps is {steps}, but must be at least 2.")
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return self._generate((1 - share) * a + share * b, np.resize(labels, steps))

    def encode(self, images: ImagesLike, labels: ClassesLike = None) -> Float[np.ndarray, "n z"]:
        """Style latents of images, very long ones shortened; the classifier reads their `labels` unless given."""
        found = self._read_images(images, "style_images")
        if labels is None:
            return self._encode(found)
        return self._encode(found, labels_for(len(found), labels, self.classes, "style_labels", "style images"))

    def decode(self, z: Float[np.ndarray, "n z"], labels: ClassesLike) -> Float[np.ndarray, "n h w c"]:
        """Images from style latents, as `encode` and `sample` give them, with a class for each or one for all."""
        latents, size = np.asarray(z, np.float64), self.module.bottleneck
        if latents.ndim != 2 or latents.shape[1] != size or not len(latents):
            raise UserError(f"z has the shape {list(latents.shape)}, but must be [N, {size}], with N at least 1.")
        if count := int((~(abs(latents) <= _MAX_LATENT)).sum()):  # NaN is not
            raise UserError(f"z holds {count} value(s) that are not a number, infinite or beyond {_MAX_LATENT:g}.")
        labels = labels_for(len(latents), labels, self.classes, "labels", "latents")
        return self._generate(latents.astype(np.float32), labels)

    def predict(self, images: ImagesLike, what: str = "images") -> Prediction:
        """The classes that the content classifier reads from images, which errors and warnings call `what`."""
        logits = self._classify(self._read_images(images, what))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Prediction(logits.argmax(axis=1).astype(np.int32), 1 / odds.sum(axis=1))

    def nearest(self, images: ImagesLike, among: ImagesLike = None, k: int = 5) -> Neighbours:
        """The `k` images of `among` nearest in style to each of `images`; by default, among those of `style_bank`."""
        return nearest(self.encode(images), self.style_bank.z if among is None else self.encode(among), k)

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "{count} z"]:
        """New latents for `decode`, distributed like those of training images. See `styles.resample`."""
        return resample(self.style_bank.z, count, seed)

    @functools.cached_property
    def background(self) -> float | None:
        """Brightness in [0, 1] of the background of decoded images, near 0 for MNIST; None if nothing stands out."""
        labels = np.arange(len(self.classes), dtype=np.int32)
        images = self._generate(np.zeros((len(labels), self.module.bottleneck), np.float32), labels)
        brightness = float(border(images).mean((1, 2)).mean())
        return brightness if float(abs(images - brightness).max()) > _MIN_CONTRAST else None

    def _generate(self, z: Float[np.ndarray, "n z"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n h w c"]:
        return self._decode(z, labels).clip(0, 1)

    def _content(self, content: ClassesLike | ImagesLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels; and the confidence with which they were read, if `content` is images."""
        labels = as_labels(content, self.classes, "content")
        return (labels, None) if labels is not None else self.predict(content, "content")

    def _read_images(self, images: ImagesLike, what: str) -> Images:
        found = read_images(images, self.module.image_shape, what)
        brightness = to_float(border(found)).mean((1, 2))
        is_odd = abs(brightness - (brightness if self.background is None else self.background)) > _MAX_BORDER_DIFFERENCE
        if is_odd.any():
            warnings.warn(
                f"{is_odd.sum()} of {len(found)} {what} have a border of brightness {brightness[is_odd].mean():.2f} "
                f"(black 0, white 1), but decoded images one of {self.background:.2f}. If they are negatives, such as "
                f"ink on paper where the model knows white on black, invert them (255 - x, or --invert), or prepare "
                f"them as drawings (images.read.read_drawings, or --drawing).",
                stacklevel=3,
            )
        return found
