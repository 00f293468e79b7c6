"""A page to play with a trained model: draw or upload a picture, and see its style with every class.

    infoae demo runs/mnist

The standard library's web server with one page of its own: nothing to install, nothing fetched from elsewhere. It
listens to this machine alone unless told otherwise, keeps nothing of what it is sent, and has no state: a page keeps
the latents that it got, and sends them back to have them drawn.

    GET  /api/model          the model's name, classes, image shape, and how its pictures look
    GET  /api/examples.png   test images, ten to a row
    POST /api/style          a picture (PNG, JPEG, ...; ?drawing=1 if it comes from the pad), or {"example": 3} as JSON;
                             ?label=7 if its class is known -> {"z": latent, "label", "confidence", "seen": picture}
    POST /api/draw           {"z": latent} -> PNG: every class in that style, ten to a row
"""

import base64
import json
import math
import threading
import warnings
from http import HTTPStatus
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from infoae_jax.images.grid import encode_png
from infoae_jax.images.handwriting import is_dark_on_light
from infoae_jax.images.pixels import to_uint8
from infoae_jax.images.read import extract_strokes, open_image, to_array
from infoae_jax.inference.model import Model

COLUMNS = 10  # of the pictures that hold several
MOST_BYTES = 12 << 20  # of an upload: a phone's photograph
MOST_PIXELS = 25_000_000  # each takes up to 12 bytes of memory while it is read
_SIDE = 1024  # a JPEG is decoded at about this size


class Examples(NamedTuple):
    """Test images to pick from, and their classes; there may be none."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


class Answer(NamedTuple):
    kind: str
    body: bytes


class RequestError(Exception):
    """What is asked for cannot be done; `status` is the HTTP code."""

    def __init__(self, status: HTTPStatus, sentence: str):
        super().__init__(sentence)
        self.status = status


class Demo:
    """What the page asks for, without the web. Safe to call from several threads."""

    def __init__(self, name: str, trained: Model, examples: Examples):
        self.name, self.trained, self.examples = name, trained, examples
        self.ground = trained.ground or 0.0  # None: it draws nothing yet
        self.handwriting = trained.info.config.data.name == "mnist" and trained.module.image_shape == (28, 28, 1)
        # One at a time: each request has a thread, but memory for one large upload is enough, and each computation
        # uses the whole machine.
        self._lock = threading.Lock()
        self._page = (files("infoae_jax.demo") / "page.html").read_bytes()

    def warm_up(self) -> None:
        """Compiles everything, so that the first stroke is answered at once."""
        blank = np.full((1, *self.trained.module.image_shape), round(255 * self.ground), np.uint8)
        for label in (None, 0):
            self.trained.encode(blank, label)
        self.trained.predict(blank)
        self.draw([0.0] * self.trained.module.bottleneck)

    def page(self) -> Answer:
        return Answer("text/html; charset=utf-8", self._page)

    def model(self) -> Answer:
        height, width, channels = self.trained.module.image_shape
        return json_answer(
            {
                "name": self.name,
                "classes": self.trained.classes,
                "height": height,
                "width": width,
                "colour": channels == 3,
                "ground": round(self.ground, 3),
                "handwriting": self.handwriting,
                "examples": self.examples.labels.tolist(),
                "columns": COLUMNS,
                "most_bytes": MOST_BYTES,
            }
        )

    def example_sheet(self) -> Answer:
        if not len(self.examples.images):
            raise RequestError(HTTPStatus.NOT_FOUND, "There are no example images.")
        return Answer("image/png", encode_png(_sheet(self.examples.images), scale=1))

    def style(self, picture: bytes, is_drawing: bool = False, label: int | None = None) -> Answer:
        """Latent and class of a picture in a file's bytes. label: its class if that is known.

        Raises:
          UserError: for bytes that are no picture. RequestError: for a picture that is too large, or empty.
        """
        with self._lock:
            return self._style(self._prepared(picture, is_drawing), label)

    def style_of_example(self, number: int, label: int | None = None) -> Answer:
        if not 0 <= number < len(self.examples.images):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"There is no example {number}.")
        with self._lock:
            return self._style(self.examples.images[number], label)

    def draw(self, z: list[float]) -> Answer:
        """Every class in the style `z`."""
        size = self.trained.module.bottleneck
        latent = np.asarray(z, np.float32)
        if latent.shape != (size,) or not np.isfinite(latent).all():
            raise RequestError(HTTPStatus.BAD_REQUEST, f"z must be {size} finite numbers.")
        labels = np.arange(len(self.trained.classes), dtype=np.int32)
        with self._lock:
            drawn = self.trained.decode(np.tile(latent, (len(labels), 1)), labels)
        return Answer("image/png", encode_png(_sheet(to_uint8(drawn)), scale=1))

    def _style(self, image: UInt8[np.ndarray, "h w c"], label: int | None) -> Answer:
        if label is not None and not 0 <= label < len(self.trained.classes):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"There is no class {label}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page shows what the model sees
            read = self.trained.predict(image[None])
            z = self.trained.encode(image[None], label)[0]
        seen = base64.b64encode(encode_png(image, scale=1)).decode()
        return json_answer(
            {
                "z": z.astype(float).tolist(),
                "label": int(read.labels[0]) if label is None else label,
                "confidence": float(read.confidence[0]) if label is None else None,
                "seen": f"data:image/png;base64,{seen}",
            }
        )

    def _prepared(self, picture: bytes, is_drawing: bool) -> UInt8[np.ndarray, "h w c"]:
        """As the training images are. Drawings on the pad have the model's own ground already."""
        height, width, channels = self.trained.module.image_shape
        image = _opened(picture)
        if not self.handwriting:
            pixels = to_array(image, "you sent", channels, (height, width))
            odd = channels == 1 and not is_drawing and is_dark_on_light(pixels[..., 0]) != (self.ground > 0.5)
            return 255 - pixels if odd else pixels
        if image.size == (width, height):
            pixels = to_array(image, "you sent", 1)
            if not is_dark_on_light(pixels[..., 0]):
                return pixels  # MNIST's own
        found = extract_strokes(image, "you sent", (height, width))
        if found is None:
            raise RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, "Nothing is drawn there.")
        return found[..., None]


def _opened(picture: bytes) -> Image.Image:
    if not picture:
        raise RequestError(HTTPStatus.BAD_REQUEST, "There is no picture in what was sent.")
    image = open_image(picture, "you sent")
    if image.width * image.height > MOST_PIXELS:
        raise RequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The picture has {image.width}x{image.height} pixels; at most {MOST_PIXELS // 10**6} million are read.",
        )
    image.draft(None, (_SIDE, _SIDE))
    return image


def _sheet(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "height width c"]:
    """Side by side, `COLUMNS` to a row."""
    n, h, w, c = images.shape
    rows, columns = math.ceil(n / COLUMNS), min(n, COLUMNS)
    padded = np.zeros((rows * columns, h, w, c), np.uint8)
    padded[:n] = images
    return padded.reshape(rows, columns, h, w, c).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)


def json_answer(value: Any) -> Answer:
    return Answer("application/json", json.dumps(value, allow_nan=False).encode())
