"""Headless Chromium by its DevTools protocol, over a pipe: no driver and no package is needed."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def executable() -> str | None:
    """Where Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


# Chromium reads from 3 and writes to 4. (`preexec_fn` would fork a process that has threads.)
_CONNECT = """
import os, sys
low, high = (os.dup(int(number)) for number in sys.argv[1:3])
os.dup2(low, 3)
os.dup2(high, 4)
for number in (3, 4):
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One page. Use as a context manager; `errors` collects what the page's scripts raise or log as errors."""

    def __init__(self, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False):
        self._folder = tempfile.mkdtemp(prefix="infoae-chromium-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [str(executable()), "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
        command += ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        command += [f"--user-data-dir={self._folder}", "--force-color-profile=srgb", "about:blank"]

        pipes = (to_browser, from_browser)
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _CONNECT, *map(str, pipes), *command],
            pass_fds=pipes,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._buffer, self._session = 0, b"", ""
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if phone:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 16)
            if not data:
                raise RuntimeError("Chromium has ended")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 300) -> Any:
        """Waits until the expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} did not come true in {seconds} s; errors: {self.errors}")
            time.sleep(0.05)
        return value

    def wait_for_refusal(self, status: int) -> None:
        """Waits until Chromium logs an answer of this status, perhaps after the page shows it, and forgets it."""
        while not (found := [text for text in self.errors if f"status of {status} " in text]):
            self.run("new Promise(done => setTimeout(done, 50))")
        self.errors.remove(found[0])

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window, after scrolling to it."""
        return tuple(
            self.run(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
                "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
                "return [r.left, r.top, r.width, r.height]; })()"
            )
        )

    def stroke(self, selector: str, points: list[tuple[float, float]]) -> None:
        """Draws with the mouse; points in shares of the element's width and height."""
        left, top, width, height = self.box(selector)
        places = [(left + x * width, top + y * height) for x, y in points]
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*places, places[-1]], strict=True):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                buttons=int(kind != "mouseReleased"),
                clickCount=1,
            )

    def touch_stroke(self, selector: str, points: list[tuple[float, float]]) -> None:
        """Draws with a finger."""
        left, top, width, height = self.box(selector)
        for i, (x, y) in enumerate(points):
            place = {"x": left + x * width, "y": top + y * height}
            self.call("Input.dispatchTouchEvent", type="touchMove" if i else "touchStart", touchPoints=[place])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def click(self, selector: str) -> None:
        self.stroke(selector, [(0.5, 0.5)])

    def upload(self, selector: str, path: Path) -> None:
        """Chooses a file in an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self) -> bytes:
        """The whole page, as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
