"""What the page of `infoae demo` shows, without HTTP. It keeps nothing: the page sends latents back to be decoded."""

import base64
import reprlib
import threading
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from infoae_jax.errors import UserError
from infoae_jax.images.grid import arrange, encode_png, sheet
from infoae_jax.images.handwriting import is_dark_on_light
from infoae_jax.images.pixels import to_uint8
from infoae_jax.images.read import extract_strokes, open_image, to_array
from infoae_jax.inference.load import load_bundle
from infoae_jax.inference.model import Model
from infoae_jax.inference.run_data import NUM_EXAMPLES, Examples, example_images
from infoae_jax.pretrained.find import find_model
from infoae_jax.types import Json

COLUMNS = 10  # of a sheet
MAX_BYTES = 12 << 20  # of an upload: enough for a phone's photograph
MAX_PIXELS = 25_000_000  # of an upload: each takes up to 12 bytes of memory while it is read
_IF_DAMAGED = "If that is always so, the model is damaged: train or export it again."
_JPEG_SIDE = 1024  # pixels: the size at which a JPEG is decoded, roughly


class RequestError(UserError):
    """A request that cannot be answered. `status` is its HTTP code."""

    def __init__(self, sentence: str, status: int = 400):
        super().__init__(sentence)
        self.status = status


class Demo:
    """Answers to the page about one model. Several threads may call it."""

    def __init__(self, name: str, model: Model, examples: Examples):
        self.name, self.model, self.examples = name, model, examples
        self.background = model.background or 0.0
        self.is_handwriting = model.info.config.data.name == "mnist" and model.module.image_shape == (28, 28, 1)
        self.page = Path(__file__).with_name("page.html").read_bytes()
        # One request at a time: memory for one large upload is enough, and each computation uses the whole machine.
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Compiles everything, so that the first stroke is answered at once."""
        blank = np.full(self.model.module.image_shape, round(255 * self.background), np.uint8)
        for label in (None, 0):
            self._encode(blank, label)
        self.decode([0.0] * self.model.module.bottleneck)

    def describe(self) -> Json:
        """The model, as far as the page must know it."""
        height, width, channels = self.model.module.image_shape
        return {
            "name": self.name,
            "classes": self.model.classes,
            "height": height,
            "width": width,
            "is_colour": channels == 3,
            "background": round(self.background, 3),
            "is_handwriting": self.is_handwriting,
            "examples": self.examples.labels.tolist(),
            "columns": COLUMNS,
            "max_bytes": MAX_BYTES,
        }

    def example_sheet(self) -> bytes:
        """All examples, as a PNG file."""
        if not len(self.examples.images):
            raise RequestError("There are no example images.", 404)
        return _sheet(self.examples.images)

    def encode(self, file: bytes, is_drawing: bool = False, label: int | None = None) -> Json:
        """Latent and class (read unless `label` is given) of an image file, and the image as the model sees it."""
        with self._lock:
            return self._encode(self.prepare(file, is_drawing), label)

    def encode_example(self, number: object, label: int | None = None) -> Json:
        """As `encode`, of an example."""
        if type(number) is not int or not 0 <= number < len(self.examples.images):  # True is an int, too
            raise UserError(f"There is no example {reprlib.repr(number)}.")
        with self._lock:
            return self._encode(self.examples.images[number], label)

    def decode(self, z: object) -> bytes:
        """A PNG file with every class in the style `z`."""
        size = self.model.module.bottleneck
        if not isinstance(z, list) or len(z) != size or not all(type(x) in (int, float) and abs(x) < 1e30 for x in z):
            raise UserError(f"z must be {size} finite numbers.")
        classes = self.model.classes
        with self._lock:
            images = self.model.decode(np.tile(np.asarray(z, np.float32), (len(classes), 1)), classes)
        if not np.isfinite(images).all():
            raise RequestError(f"The image of this z is not finite. Send numbers closer to 0. {_IF_DAMAGED}", 422)
        return _sheet(to_uint8(images))

    def prepare(self, file: bytes, is_drawing: bool) -> UInt8[np.ndarray, "h w c"]:
        """An image file as the training images are. Drawings have the model's own background already."""
        height, width, channels = self.model.module.image_shape
        image = open_image(file, "you sent")
        if image.width * image.height > MAX_PIXELS:
            limit = f"the maximum is {MAX_PIXELS // 10**6} million"
            raise RequestError(f"The image has {image.width}x{image.height} pixels; {limit}.", 413)
        image.draft(None, (_JPEG_SIDE, _JPEG_SIDE))
        if not self.is_handwriting:
            pixels = to_array(image, "you sent", channels, (height, width))
            if channels == 3 or is_drawing or is_dark_on_light(pixels[..., 0]) == (self.background > 0.5):
                return pixels
            return 255 - pixels
        if image.size == (width, height):
            pixels = to_array(image, "you sent", 1)
            if not is_dark_on_light(pixels[..., 0]):
                return pixels  # one of MNIST's own
        strokes = extract_strokes(image, "you sent", (height, width))
        if strokes is None:
            raise RequestError("The image shows no strokes.", 422)
        return strokes[..., None]

    def _encode(self, image: UInt8[np.ndarray, "h w c"], label: int | None) -> Json:
        classes = self.model.classes
        if label is not None and not 0 <= label < len(classes):
            raise RequestError(f"The class is {label}, but classes are numbered 0 to {len(classes) - 1}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page shows what the model sees
            prediction = self.model.predict(image[None])
            z = self.model.encode(image[None], None if label is None else classes[label])[0]
        if not np.isfinite([*z, *prediction.confidence]).all():
            raise RequestError(f"What the model reads from this image is not finite. {_IF_DAMAGED}", 500)
        return {
            "z": z.astype(float).tolist(),
            "label": int(prediction.labels[0]) if label is None else label,
            "confidence": float(prediction.confidence[0]) if label is None else None,
            "seen": f"data:image/png;base64,{base64.b64encode(encode_png(image, scale=1)).decode()}",
        }


def load_demo(run: str, step: int | None = None, data_dir: str | None = None) -> Demo:
    """The demo of a model (see `load`), with test images if there are any; otherwise it prints why not."""
    path, (model, _, extras, _) = find_model(run), load_bundle(run, step, data_dir)
    images, labels = np.zeros((0, *model.module.image_shape), np.uint8), np.zeros(0, np.int32)
    try:
        if not path.is_file():
            images, labels = example_images(model.info, NUM_EXAMPLES, data_dir)
        elif {"examples/images", "examples/labels"} <= extras.keys():
            images, labels = extras["examples/images"], extras["examples/labels"]
    except UserError as error:
        print(f"Without test images to pick from: {error}")
    return Demo(path.stem if path.is_file() else path.resolve().name, model, Examples(images, labels))


def _sheet(images: UInt8[np.ndarray, "n h w c"]) -> bytes:
    return encode_png(sheet(arrange(images, COLUMNS)), scale=1)
