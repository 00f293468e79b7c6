"""The web server of `infoae demo`: Python's own, for one page that fetches nothing from elsewhere.

GET  /api/model          what the page must know of the model
GET  /api/examples.png   a sheet of test images
POST /api/encode         an image file (with ?drawing=1 if it was drawn on the page), or {"example": 3} as JSON; with
                         ?label=7 if its class is known -> {"z": latent, "label", "confidence", "seen": image}
POST /api/decode         {"z": latent} -> a sheet of every class in that style
"""

import json
import socket
import sys
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, TypeAlias

from infoae_jax.demo.app import MAX_BYTES, Demo, RequestError
from infoae_jax.errors import UserError
from infoae_jax.types import Json

Answer: TypeAlias = tuple[str, bytes]  # content type and body
_MAX_DRAINED_BYTES = 4 * MAX_BYTES  # read from a request that is too long, so that the browser gets the answer
_PROXY_ADVICE = " Behind a proxy, start it with --trusted_origin=https://HOST."
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


class Server(ThreadingHTTPServer):
    """Serves `demo` at `url`, until `shutdown`."""

    request_queue_size = 128  # connections that wait to be accepted

    def __init__(self, demo: Demo, host: str = "127.0.0.1", port: int = 0, trusted_origins: Sequence[str] = ()):
        """Binds the address.

        Args:
          host: '0.0.0.0' stands for all of this machine's addresses.
          port: 0 stands for a free one.
          trusted_origins: where else browsers find the page, behind a proxy: scheme, host and port, as they write it.

        Raises:
          UserError: if the address cannot be had.
        """
        self.demo, self.host, self.trusted_origins = demo, host, frozenset(trusted_origins)
        self.trusted_names = {urllib.parse.urlsplit(origin).hostname for origin in trusted_origins}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"Cannot serve at {host}, port {port} ({error}). Use another --host, or --port=0."
            ) from error

    @property
    def url(self) -> str:
        name = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of visitors who leave: the terminal is for the address and for errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def is_own_name(self, name: str) -> bool:
        """Whether a request to this name is one to this machine.

        A page from elsewhere can have its own name lead to this machine (DNS rebinding), and the browser would then let
        it in. It cannot do so with a numeric address.
        """
        try:
            own = "localhost", self.host.lower(), socket.gethostname().lower()
            return bool(name and (name in own or ip_address(name)))
        except ValueError:
            return False


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds that a connection may be silent
    server_version, sys_version = "infoae", ""

    def _answer(self, path: str, query: dict[str, str]) -> Answer:
        demo = self.server.demo
        if self.command == "POST":
            body = self._read_body()
            if path == "/api/decode":
                return "image/png", demo.decode(_field(body, "z"))
            if path == "/api/encode":
                label = _number(query["label"]) if "label" in query else None
                if self.headers.get_content_type() == "application/json":
                    return _json_answer(demo.encode_example(_field(body, "example"), label))
                return _json_answer(demo.encode(body, "drawing" in query, label))
        elif path == "/":
            return "text/html; charset=utf-8", demo.page
        elif path == "/api/model":
            return _json_answer(demo.describe())
        elif path == "/api/examples.png":
            return "image/png", demo.example_sheet()
        raise RequestError(f"There is nothing at {path}.", 404)

    def do_GET(self) -> None:
        self._is_body_read, status = False, 200
        try:
            url = urllib.parse.urlsplit(self.path)
            self._refuse_strangers(url.path)
            kind, body = self._answer(url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)))
        except (UserError, ValueError) as error:
            status = error.status if isinstance(error, RequestError) else 400
            kind, body = _json_answer({"error": str(error)})
        except (ConnectionError, TimeoutError):  # they left
            self.close_connection = True
            return
        except Exception as error:  # a mistake of ours must not end the page for others
            print(f"error: {self.path}: {error!r}", file=sys.stderr, flush=True)
            status, (kind, body) = 500, _json_answer({"error": f"This should not have happened: {error!r}"})
        has_body = self.command == "POST" or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        if has_body and not self._is_body_read:
            self.close_connection = True  # the rest of this request must not be taken for the next one
        try:
            self.send_response(status)
            headers = {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}
            for name, value in (headers | ({"Connection": "close"} if self.close_connection else {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET  # noqa: N815 (http.server's names)

    def _refuse_strangers(self, path: str) -> None:
        server, host, origin, site = self.server, *(self.headers[name] for name in ("Host", "Origin", "Sec-Fetch-Site"))
        name = urllib.parse.urlsplit(f"//{host or ''}").hostname or ""
        is_own = server.is_own_name(name)
        if not is_own and name not in server.trusted_names:
            raise RequestError(f"This is {server.url}; open it by that address.{_PROXY_ADVICE}", 403)
        is_same = is_own and origin and urllib.parse.urlsplit(origin).netloc == host
        is_foreign = origin and not is_same and origin not in server.trusted_origins
        # Browsers ask for images and the like without an origin. A link to the page itself may be anywhere.
        if is_foreign or (path.startswith("/api/") and site not in (None, "same-origin", "none")):
            raise RequestError(f"Pages from elsewhere may not use this one.{_PROXY_ADVICE}", 403)

    def _read_body(self) -> bytes:
        length = _number(self.headers["Content-Length"] or "")
        if length > MAX_BYTES:
            for start in range(0, min(length, _MAX_DRAINED_BYTES), 1 << 16):
                if not self.rfile.read(min(1 << 16, length - start)):
                    break
            raise RequestError(f"The file has {length / (1 << 20):.0f} MB; the maximum is {MAX_BYTES >> 20}.", 413)
        body = self.rfile.read(length)
        self._is_body_read = len(body) == length
        return body

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing about requests and idle connections: the terminal is for the address and for errors."""


def _json_answer(value: Json) -> Answer:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UserError(f"{text[:20]!r} is not a number.")
    return int(text)


def _field(body: bytes, name: str) -> object:
    try:
        return json.loads(body)[name]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"The request is not a JSON object with {name!r}.") from error
