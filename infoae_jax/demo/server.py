"""The web server of the demo."""

import json
import socket
import sys
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

from infoae_jax.demo.app import MOST_BYTES, Answer, Demo, RequestError, json_answer
from infoae_jax.errors import UserError

_DRAIN = 4 * MOST_BYTES  # of what is too long, this much is read, so that the browser gets the answer
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
            kind, body = json_answer({"error": str(error)})
        except (ConnectionError, TimeoutError):  # they left
            self.close_connection = True
            return
        except Exception as error:  # a mistake of ours must not end the page for others
            print(f"error: {self.path}: {error!r}", file=sys.stderr, flush=True)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, body = json_answer({"error": f"This should not have happened: {error!r}"})
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
