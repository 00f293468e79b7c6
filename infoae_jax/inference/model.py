"""Use of a finished or running run from Python: `load` gives its model, with functions for pictures of your own."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from infoae_jax.devices.batching import make_batched
from infoae_jax.devices.mesh import AXIS
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import border
from infoae_jax.images.read import read_images
from infoae_jax.inference.styles import Neighbours, StyleBank, interpolate_latents, nearest, resample
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.runs.folder import RunInfo

_STANDS_OUT = 0.25  # least difference of brightness between what a model draws and its border
_OTHER_GROUND = 0.6  # difference of border brightness beyond which a picture must be a negative of what the model knows


class Prediction(NamedTuple):
    """What the content classifier reads: the class of each picture, and the probability it gives it."""

    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]


class Transfer(NamedTuple):
    """Pictures in [0, 1] with the classes they show; where these were read from pictures, with what confidence."""

    images: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"] | None


class Model:
    """A trained model, with functions on pictures: arrays, PIL images, files, folders (see `pictures`).

        trained = infoae_jax.load("runs/mnist")
        trained.transfer("a.png", 7).images          # the style of a.png with the content 7
        trained.transfer(["a.png", "b.png"], "c.png")  # ... with the content of c.png, as the classifier reads it

    A class is given by its name or its number. Results are NumPy arrays, always with an axis for several pictures, and
    drawn pictures are float32 in [0, 1]. All local devices share the work, and each function is compiled once for
    each power of two of pictures. Inside your own `jit`, `vmap` or `grad`, use `model.apply(variables, ...)`.

    Attributes:
      model: the flax module, with the methods `encode`, `decode`, `classify` and `transfer`.
      variables: its parameters.
      info: configuration, image shape and class names.
      step: which step of the training it is of; None: not known.
    """

    def __init__(
        self,
        model: InfoAutoencoder,
        variables: dict[str, Any],
        info: RunInfo,
        kept: StyleBank | Callable[["Model"], StyleBank],
        step: int | None = None,
    ):
        """`kept`: styles of training images, or what gets them when they are first needed."""
        self.module, self.variables, self.info, self.step = model, variables, info, step
        self._kept = kept
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
        everywhere = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        pixels = model.image_shape[0] * model.image_shape[1]

        def batched(method: str, finish: Callable[[Any], Any] = lambda x: x) -> Callable[..., np.ndarray]:
            def function(variables: dict[str, Any], *rows: jax.Array) -> Any:
                return finish(model.apply(variables, *rows, method=method))

            return functools.partial(make_batched(function, mesh, pixels), everywhere)

        self._encode, self._classify = batched("encode"), batched("classify")
        self._decode = batched("decode", lambda images: jnp.clip(images, 0, 1))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.info.class_names

    @functools.cached_property
    def style_bank(self) -> StyleBank:
        """Styles of some thousand training images with their classes.

        Raises:
          UserError: if the run has not kept them yet and its data set is not at hand.
        """
        return self._kept if isinstance(self._kept, StyleBank) else self._kept(self)

    def transfer(self, style_images: Any, content: Any, style_labels: Any = None) -> Transfer:
        """The style of each picture with a content.

        Args:
          style_images: pictures.
          content: classes (by number or name) or pictures, whose class the content classifier reads. One for all
            style images, or as many; several for one style image also do.
          style_labels: the classes of the style images; by default, the classifier reads them.

        Raises:
          UserError: for what is neither picture nor class, and numbers of them that do not fit.
        """
        labels, confidence = self._content(content)
        z = self.encode(style_images, style_labels)
        count = max(len(z), len(labels))
        for name, number in (("style_images", len(z)), ("content", len(labels))):
            if number not in (1, count):
                raise UserError(f"{name} are {number}, but there must be 1 or {count} of them, to go with the others.")
        z, labels = np.resize(z, (count, z.shape[1])), np.resize(labels, count)
        if confidence is not None:
            confidence = np.resize(confidence, count)
        return Transfer(self.decode(z, labels), labels, confidence)

    def grid(self, style_images: Any, content: Any = None, style_labels: Any = None) -> Float[np.ndarray, "n k h w c"]:
        """Every style with every content: `[styles, contents, H, W, C]`, all classes by default. See `transfer`."""
        labels = np.arange(len(self.classes), dtype=np.int32) if content is None else self._content(content)[0]
        z = self.encode(style_images, style_labels)
        drawn = self.decode(np.repeat(z, len(labels), axis=0), np.tile(labels, len(z)))
        return drawn.reshape(len(z), len(labels), *drawn.shape[1:])

    def interpolate(self, style_a: Any, style_b: Any, content: Any, steps: int = 9) -> Float[np.ndarray, "steps h w c"]:
        """One class in styles on the way from that of one picture to that of another, both included.

        Args:
          content: a class or a picture.
          steps: how many, 2 or more.
        """
        labels, _ = self._content(content)
        z = [self.encode(picture) for picture in (style_a, style_b)]
        for name, values in (("style_a", z[0]), ("style_b", z[1]), ("content", labels)):
            if len(values) != 1:
                raise UserError(f"{name} are {len(values)}, but it must be one.")
        if steps < 2:
            raise UserError(f"steps is {steps}, but must be 2 or more.")
        return self.decode(interpolate_latents(z[0][0], z[1][0], steps), np.resize(labels, steps))

    def encode(self, images: Any, labels: Any = None) -> Float[np.ndarray, "n z"]:
        """Style latents of pictures; `labels`: their classes, read by the classifier by default."""
        found = self._pictures(images, "style_images")
        if labels is None:
            return self._encode(found)
        known = as_labels(labels, self.classes, "style_labels")
        if known is None or len(known) not in (1, len(found)):
            raise UserError(
                f"style_labels must be one class for each of the {len(found)} style images, or one for all."
            )
        return self._encode(found, np.resize(known, len(found)))

    def decode(self, styles: Float[np.ndarray, "n z"], labels: Any) -> Float[np.ndarray, "n h w c"]:
        """Pictures in [0, 1] of style latents, as `encode` and `sample` give them, with classes, one or as many."""
        found = np.asarray(styles, np.float32)
        known = as_labels(labels, self.classes, "labels")
        size = self.module.bottleneck
        if found.ndim != 2 or found.shape[1] != size or not len(found):
            raise UserError(f"styles have the shape {list(found.shape)}, but must be [N, {size}], with N 1 or more.")
        if known is None or len(known) not in (1, len(found)):
            raise UserError(f"labels must be one class for each of the {len(found)} styles, or one for all.")
        return self._decode(found, np.resize(known, len(found)))

    def predict(self, images: Any) -> Prediction:
        """The class of each picture as the content classifier reads it, and how sure it is."""
        return self._predict(self._pictures(images, "images"))

    def _predict(self, images: np.ndarray) -> Prediction:
        logits = self._classify(images)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Prediction(logits.argmax(axis=1).astype(np.int32), 1 / odds.sum(axis=1))

    def nearest(self, images: Any, among: Any = None, k: int = 5) -> Neighbours:
        """Which `k` pictures of `among` are nearest in style to each of `images`, and how far away their latents are.

        among: pictures; None: the kept training images, by their row in `styles`.
        """
        return nearest(self.encode(images), self.style_bank.z if among is None else self.encode(among), k)

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count z"]:
        """New styles, as likely as those of training images, to be drawn with `decode`. See `styles.resample`."""
        return resample(self.style_bank.z, count, seed)

    @functools.cached_property
    def ground(self) -> float | None:
        """Brightness in [0, 1] of the ground on which the model draws, near 0 for MNIST; None if nothing stands out."""
        labels = np.arange(len(self.classes), dtype=np.int32)
        drawn = self.decode(np.zeros((len(labels), self.module.bottleneck), np.float32), labels)
        brightness = float(_border_brightness(drawn).mean())
        return brightness if float(abs(drawn - brightness).max()) > _STANDS_OUT else None

    def _content(self, content: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels, and the confidence with which they were read, if content is pictures."""
        labels = as_labels(content, self.classes, "content")
        return (labels, None) if labels is not None else self._predict(self._pictures(content, "content"))

    def _pictures(self, images: Any, what: str) -> np.ndarray:
        found = read_images(images, self.module.image_shape, what)
        brightness = _border_brightness(found)
        ground = brightness if self.ground is None else self.ground
        odd = abs(brightness - ground) > _OTHER_GROUND
        if odd.any():
            warnings.warn(
                f"{odd.sum()} of {len(odd)} {what} have a border of brightness {brightness[odd].mean():.2f} (black 0, "
                f"white 1), the model's own pictures {self.ground:.2f}. If they are negatives of what it knows, such "
                f"as ink on paper where it knows white on black, invert them (255 - x, or --invert), or prepare them "
                f"as drawings (pictures.drawings, or --drawing).",
                stacklevel=3,
            )
        return found


def _border_brightness(images: np.ndarray) -> np.ndarray:
    """Mean brightness of each image's outermost pixels, in [0, 1]."""
    return border(images).mean((1, 2)) / (255 if images.dtype == np.uint8 else 1)


def as_labels(content: Any, classes: tuple[str, ...], what: str) -> np.ndarray | None:
    """The numbers of classes that are given by number or name, or None if `content` is no class but (a list of) others.

    Raises:
      UserError: for a number or a name that no class has, and for lists of classes and other things.
    """
    known = f"Classes: {', '.join(classes[:20])}" + (", ..." if len(classes) > 20 else "")
    if isinstance(content, str):
        if content in classes:
            return np.array([classes.index(content)], np.int32)
        if content and os.path.exists(content):
            return None
        raise UserError(f"{what} is {content!r}, which is neither a class nor a file. {known}.")
    if isinstance(content, int | np.integer) and not isinstance(content, bool):
        if not 0 <= content < len(classes):
            raise UserError(f"{what} is {content}, but classes are numbered 0 to {len(classes) - 1}. {known}.")
        return np.array([content], np.int32)
    if getattr(content, "ndim", 2) <= 1 and np.asarray(content).dtype.kind in "iuU":
        content = np.atleast_1d(np.asarray(content)).tolist()
    if isinstance(content, list | tuple):
        each = [as_labels(item, classes, f"{what}[{i}]") for i, item in enumerate(content)]
        numbers = [labels for labels in each if labels is not None]
        if numbers and len(numbers) < len(each):
            raise UserError(f"{what} holds both classes and pictures. Give either.")
        return np.concatenate(numbers) if numbers else None
    return None
