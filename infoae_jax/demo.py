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
import socket
import sys
import threading
import urllib.parse
import warnings
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from infoae_jax import pictures
from infoae_jax.errors import UserError
from infoae_jax.grid import png, to_pixels
from infoae_jax.handwriting import inverted
from infoae_jax.transfer import Trained

COLUMNS = 10  # of the pictures that hold several
MOST_BYTES = 12 << 20  # of an upload: a phone's photograph
MOST_PIXELS = 25_000_000  # each takes up to 12 bytes of memory while it is read
_DRAIN = 4 * MOST_BYTES  # of what is too long, this much is read, so that the browser gets the answer
_SIDE = 1024  # a JPEG is decoded at about this size
_HEADERS = {
    # The page may talk to nobody but this server.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


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

    def __init__(self, name: str, trained: Trained, examples: Examples):
        self.name, self.trained, self.examples = name, trained, examples
        self.ground = trained.ground or 0.0  # None: it draws nothing yet
        self.handwriting = trained.info.config.data.name == "mnist" and trained.model.image_shape == (28, 28, 1)
        # One at a time: each request has a thread, but memory for one large upload is enough, and each computation
        # uses the whole machine.
        self._lock = threading.Lock()
        self._page = (files("infoae_jax") / "demo.html").read_bytes()

    def warm_up(self) -> None:
        """Compiles everything, so that the first stroke is answered at once."""
        blank = np.full((1, *self.trained.model.image_shape), round(255 * self.ground), np.uint8)
        for label in (None, 0):
            self.trained.style_of(blank, label)
        self.trained.read(blank)
        self.draw([0.0] * self.trained.model.bottleneck)

    def page(self) -> Answer:
        return Answer("text/html; charset=utf-8", self._page)

    def model(self) -> Answer:
        height, width, channels = self.trained.model.image_shape
        return _json(
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
        return Answer("image/png", png(_sheet(self.examples.images), scale=1))

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
        size = self.trained.model.bottleneck
        latent = np.asarray(z, np.float32)
        if latent.shape != (size,) or not np.isfinite(latent).all():
            raise RequestError(HTTPStatus.BAD_REQUEST, f"z must be {size} finite numbers.")
        labels = np.arange(len(self.trained.classes), dtype=np.int32)
        with self._lock:
            drawn = self.trained.draw(np.tile(latent, (len(labels), 1)), labels)
        return Answer("image/png", png(_sheet(to_pixels(drawn)), scale=1))

    def _style(self, image: UInt8[np.ndarray, "h w c"], label: int | None) -> Answer:
        if label is not None and not 0 <= label < len(self.trained.classes):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"There is no class {label}.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page shows what the model sees
            read = self.trained.read(image[None])
            z = self.trained.style_of(image[None], label)[0]
        seen = base64.b64encode(png(image, scale=1)).decode()
        return _json(
            {
                "z": z.astype(float).tolist(),
                "label": int(read.labels[0]) if label is None else label,
                "confidence": float(read.confidence[0]) if label is None else None,
                "seen": f"data:image/png;base64,{seen}",
            }
        )

    def _prepared(self, picture: bytes, is_drawing: bool) -> UInt8[np.ndarray, "h w c"]:
        """As the training images are. Drawings on the pad have the model's own ground already."""
        height, width, channels = self.trained.model.image_shape
        image = _opened(picture)
        if not self.handwriting:
            pixels = pictures.convert(image, "you sent", channels, (height, width))
            odd = channels == 1 and not is_drawing and inverted(pixels[..., 0]) != (self.ground > 0.5)
            return 255 - pixels if odd else pixels
        if image.size == (width, height):
            pixels = pictures.convert(image, "you sent", 1)
            if not inverted(pixels[..., 0]):
                return pixels  # MNIST's own
        found = pictures.strokes(image, "you sent", (height, width))
        if found is None:
            raise RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, "Nothing is drawn there.")
        return found[..., None]


def _opened(picture: bytes) -> Image.Image:
    if not picture:
        raise RequestError(HTTPStatus.BAD_REQUEST, "There is no picture in what was sent.")
    image = pictures.opened(picture, "you sent")
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


def _json(value: Any) -> Answer:
    return Answer("application/json", json.dumps(value, allow_nan=False).encode())


# --- The web ----------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `demo` at `url`, until `shutdown`."""

    daemon_threads = True

    def __init__(self, demo: Demo, host: str = "127.0.0.1", port: int = 0):
        """host: the address to listen at; '0.0.0.0' for all. port: 0 for a free one.

        Raises:
          UserError: if that address is not to be had.
        """
        self.demo, self.host = demo, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"The page cannot be served at {host}, port {port} ({error}). Choose another --host or --port; "
                f"--port=0 takes a free one."
            ) from error

    @property
    def url(self) -> str:
        name = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}/"

    def knows(self, host: str | None) -> bool:
        """Whether a request's Host header names this server.

        Somebody else's page can have its own name lead to this machine (DNS rebinding), and would then be let in by the
        browser; it cannot do so with a number.
        """
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname if host else None
            if name in ("localhost", self.host.lower(), socket.gethostname().lower()):
                return True
            return name is not None and bool(ip_address(name))
        except ValueError:
            return False


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # of a connection on which nothing comes
    server_version, sys_version = "infoae", ""

    def do_GET(self) -> None:
        demo = self.server.demo
        pages: dict[str, Callable[[], Answer]] = {
            "/": demo.page,
            "/api/model": demo.model,
            "/api/examples.png": demo.example_sheet,
        }

        def answer(path: str, _query: dict[str, str]) -> Answer:
            if path not in pages:
                raise RequestError(HTTPStatus.NOT_FOUND, f"There is nothing at {path}.")
            return pages[path]()

        self._answer(answer)

    do_HEAD = do_GET  # noqa: N815 (http.server calls it so)

    def do_POST(self) -> None:
        demo = self.server.demo

        def answer(path: str, query: dict[str, str]) -> Answer:
            body = self._body()
            if path == "/api/draw":
                return demo.draw(_field(body, "z", list))
            if path != "/api/style":
                raise RequestError(HTTPStatus.NOT_FOUND, f"There is nothing at {path}.")
            label = _number(query["label"]) if "label" in query else None
            if self.headers.get_content_type() == "application/json":
                return demo.style_of_example(_field(body, "example", int), label)
            return demo.style(body, "drawing" in query, label)

        self._answer(answer)

    def _answer(self, answer: Callable[[str, dict[str, str]], Answer]) -> None:
        self._read = False
        status = HTTPStatus.OK
        try:
            if not self.server.knows(self.headers["Host"]):
                raise RequestError(HTTPStatus.FORBIDDEN, f"This is {self.server.url}; open it by that address.")
            url = urllib.parse.urlsplit(self.path)
            origin, site = self.headers["Origin"], self.headers["Sec-Fetch-Site"]
            foreign = bool(origin) and urllib.parse.urlsplit(origin).netloc != self.headers["Host"]
            # Images and the like are asked for without an origin. A link to the page itself may be anywhere.
            if foreign or (url.path.startswith("/api/") and site not in (None, "same-origin", "none")):
                raise RequestError(HTTPStatus.FORBIDDEN, "Pages from elsewhere may not use this one.")
            kind, body = answer(url.path, dict(urllib.parse.parse_qsl(url.query)))
        except (RequestError, UserError, ValueError) as error:
            status = error.status if isinstance(error, RequestError) else HTTPStatus.BAD_REQUEST
            kind, body = _json({"error": str(error)})
        except (ConnectionError, TimeoutError):  # they left
            self.close_connection = True
            return
        except Exception as error:  # a mistake of ours must not end the page for others
            print(f"error: {self.path}: {error!r}", file=sys.stderr, flush=True)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, body = _json({"error": f"This should not have happened: {error!r}"})
        bodies = ("Content-Length", "Transfer-Encoding")
        if not self._read and (self.command == "POST" or any(name in self.headers for name in bodies)):
            self.close_connection = True  # what is left of this request must not be taken for the next one
        try:
            self.send_response(status)
            headers = {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}
            if self.close_connection:
                headers["Connection"] = "close"
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _body(self) -> bytes:
        length = _number(self.headers["Content-Length"] or "")
        if length > MOST_BYTES:
            for start in range(0, min(length, _DRAIN), 1 << 16):
                if not self.rfile.read(min(1 << 16, length - start)):
                    break
            raise RequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"That has {length / (1 << 20):.0f} MB; at most {MOST_BYTES >> 20} are taken.",
            )
        body = self.rfile.read(length)
        self._read = len(body) == length
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of requests and of idle connections: the terminal is for the address and for errors."""


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise RequestError(HTTPStatus.BAD_REQUEST, f"{text[:20]!r} is no number.")
    return int(text)


def _field(body: bytes, name: str, kind: type) -> Any:
    try:
        value = json.loads(body)[name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"What was sent is no JSON object with {name!r}.") from error
    good = isinstance(value, kind) and not isinstance(value, bool)
    if kind is list and good:
        good = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30 for v in value)
    if not good:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"{name!r} must be {'numbers' if kind is list else 'a number'}.")
    return value
