"""Makes the README's pictures of pages, in docs/pages/images; needs Chromium.

python docs/pictures.py demo
python docs/pictures.py sweep runs/rendered/sweep/report.html
"""

import io
import itertools
import sys
import threading
from pathlib import Path

from PIL import Image

from infoae_jax.demo.app import load_demo
from infoae_jax.demo.server import Server
from infoae_jax.devices.setup import set_up
from tests.chromium import Chromium

# Strokes of a slanted 4, in shares of the pad's width and height.
STROKES = (
    [(0.52, 0.16), (0.45, 0.28), (0.38, 0.40), (0.31, 0.52), (0.46, 0.53), (0.60, 0.53), (0.72, 0.52)],
    [(0.68, 0.28), (0.64, 0.42), (0.60, 0.55), (0.55, 0.70), (0.50, 0.86)],
)
CHOSEN = 2, 8, 5  # digits clicked afterwards
IMAGES = Path(__file__).parent / "pages" / "images"
HEIGHT, WIDTH = 850, 840  # of the window, and of the pictures, in pixels
QUICK, SLOW = 160, 1200  # milliseconds that a frame is shown


def top(browser: Chromium, height: int) -> Image.Image:
    """The upper part of a page, made smaller."""
    page = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    shown = page.crop((0, 0, page.width, height))
    shown.thumbnail((WIDTH, height), Image.Resampling.LANCZOS)
    return shown


def frames(browser: Chromium) -> list[tuple[Image.Image, int]]:
    """What the page shows, and for how long."""
    shots: list[tuple[Image.Image, int]] = []

    def shoot(milliseconds: int) -> None:
        browser.wait("busy === 0")
        browser.run("window.scrollTo(0, 0)")
        shots.append((top(browser, HEIGHT), milliseconds))

    browser.wait("document.body.dataset.ready === 'yes' && slots.a.state && slots.b.state")
    browser.click("#a .clear")
    shoot(SLOW // 2)
    for stroke in STROKES:
        for part in itertools.pairwise(stroke):
            browser.stroke("#a .pad canvas", list(part))
            shoot(QUICK)
    shoot(SLOW)
    for digit in CHOSEN:
        browser.click(f"#tiles button:nth-child({digit + 1})")
        shoot(SLOW)
    return shots


def animate_demo(file: Path) -> None:
    """Somebody draws a digit on the page of `infoae demo mnist`, and picks what to see in its style."""
    set_up(1)
    demo = load_demo("mnist")
    with Server(demo) as server:
        demo.warm_up()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Chromium(1120, HEIGHT) as browser:
            browser.call("Emulation.setScrollbarsHidden", hidden=True)  # they come and go, and change the width
            browser.open(server.url)
            shots = frames(browser)
        server.shutdown()
    palette = shots[-1][0].quantize(96)  # one for all, so that what stands still does not flicker
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture, _ in shots]
    durations = [milliseconds for _, milliseconds in shots]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def show_sweep(page: Path, file: Path) -> None:
    """The page of a sweep as far as its first chart."""
    with Chromium(1120, HEIGHT) as browser:
        browser.open(page.resolve().as_uri())
        _, above, _, height = browser.box(".figure")
        bottom = round(browser.run("window.scrollY") + above + height) + 20
        top(browser, bottom).save(file, optimize=True)


if __name__ == "__main__":
    if sys.argv[1] == "demo":
        animate_demo(IMAGES / "demo.gif")
    else:
        show_sweep(Path(sys.argv[2]), IMAGES / "sweep.png")
