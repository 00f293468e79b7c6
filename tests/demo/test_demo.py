import base64
import concurrent.futures
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.demo.app import MOST_BYTES, Demo, Examples
from infoae_jax.demo.server import Server
from infoae_jax.errors import UserError
from infoae_jax.images.handwriting import centre_strokes
from infoae_jax.inference.model import Model
from infoae_jax.inference.run_data import example_images
from infoae_jax.inference.styles import StyleBank
from infoae_jax.models.autoencoder import build
from infoae_jax.runs import folder as folder_module
from infoae_jax.runs.folder import RunInfo, to_dict
from tests import chromium
from tests.drawings import digit

needs_chromium = pytest.mark.skipif(chromium.executable() is None, reason="Chromium is not installed")


def as_bytes(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page():
    """A model like MNIST's that need not be trained: random numbers draw different pictures for different styles."""
    import jax
    import jax.numpy as jnp

    config = parse(mnist.get_config("tiny"))
    model = build(config.model, (28, 28, 1), 10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(0)
    params = {
        name: (rng.normal(0, 1.5 / np.sqrt(np.prod(s.shape[:-1])), s.shape) * (name[-1] != "bias")).astype(np.float32)
        for name, s in flatten_dict(shapes["params"]).items()
    }
    info = RunInfo(config, (28, 28, 1), tuple("0123456789"), 10, 10, "x")
    kept = StyleBank(np.zeros((1, 16), np.float32), np.zeros(1, np.int32))
    examples = np.stack(
        [centre_strokes(np.asarray(digit(box=(60, 40, 100 + 5 * i, 240))))[..., None] for i in range(12)]
    )
    labels = np.arange(12, dtype=np.int32) % 10
    found = Demo("a <b>model", Model(model, {"params": unflatten_dict(params)}, info, kept), Examples(examples, labels))
    found.warm_up()
    return found


@pytest.fixture(scope="module")
def server(page):
    with Server(page) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def ask(server, path, body=None, **headers):
    """Status and body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url.rstrip("/") + path, body, names)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def style(server, body, query="", kind="image/png"):
    status, answer = ask(server, f"/api/style{query}", body, Content_Type=kind)
    assert status == 200, answer
    return json.loads(answer)


def draw(server, z):
    status, answer = ask(server, "/api/draw", json.dumps({"z": z}).encode(), Content_Type="application/json")
    assert status == 200, answer
    return np.asarray(Image.open(io.BytesIO(answer)))


def seen(state):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(state["seen"].partition(",")[2]))))


def test_a_drawing_gives_the_models_own_answers(server, page):
    state = style(server, as_bytes(digit()), "?drawing=1")
    image = seen(state)
    np.testing.assert_array_equal(image, centre_strokes(np.asarray(digit())))
    trained = page.trained
    np.testing.assert_allclose(state["z"], trained.encode(image)[0], rtol=1e-5)
    read = trained.predict(image)
    assert (state["label"], state["confidence"]) == (read.labels[0], pytest.approx(float(read.confidence[0]), rel=1e-5))
    sheet = draw(server, state["z"])
    assert sheet.shape == (28, 280)
    theirs = trained.grid(image)[0, ..., 0].transpose(1, 0, 2).reshape(28, 280)
    assert np.abs(sheet / 255 - theirs).max() < 0.01
    assert np.ptp(sheet) > 50


def test_another_class_can_be_set(server, page):
    picture = as_bytes(digit())
    state = style(server, picture, "?label=3")
    assert state["label"] == 3
    assert state["confidence"] is None
    assert ask(server, "/api/style?label=10", picture, Content_Type="image/png")[0] == 400


def test_examples_are_served_and_picked(server, page):
    sheet = np.asarray(Image.open(io.BytesIO(ask(server, "/api/examples.png")[1])))
    assert sheet.shape == (56, 280)  # twelve, ten to a row
    np.testing.assert_array_equal(sheet[28:, 28:56], page.examples.images[11, ..., 0])
    state = style(server, b'{"example": 11}', kind="application/json")
    np.testing.assert_array_equal(seen(state), page.examples.images[11, ..., 0])
    model = json.loads(ask(server, "/api/model")[1])
    assert model["examples"] == page.examples.labels.tolist()
    assert model["handwriting"] is True


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "sentence"),
    [
        ("GET", "/nothing", None, None, 404, "nothing at /nothing"),
        ("GET", "/../../etc/passwd", None, None, 404, "nothing at"),
        ("POST", "/", b"x", "image/png", 404, "nothing at"),
        ("PUT", "/api/draw", b"{}", "application/json", 501, None),
        ("POST", "/api/style", b"", "image/png", 400, "no picture"),
        ("POST", "/api/style", b"\x89PNG\r\n\x1a\n garbage", "image/png", 400, "cannot be decoded"),
        ("POST", "/api/style", np.random.default_rng(0).bytes(5000), "image/jpeg", 400, "not an image"),
        ("POST", "/api/style", as_bytes(digit())[:300], "image/png", 400, "cannot be decoded"),
        ("POST", "/api/style", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png", 400, "not an image"),
        ("POST", "/api/style", as_bytes(Image.new("L", (99, 99), 7)), "image/png", 422, "Nothing is drawn"),
        ("POST", "/api/style", as_bytes(Image.new("1", (5001, 5000))), "image/png", 413, "25 million"),
        ("POST", "/api/style?label=x", as_bytes(digit()), "image/png", 400, "no number"),
        ("POST", "/api/style", b'{"example": 12}', "application/json", 400, "no example 12"),
        ("POST", "/api/style", b'{"example": "1"}', "application/json", 400, "must be a number"),
        ("POST", "/api/draw", b"[" * 100_000, "application/json", 400, "no JSON object"),
        ("POST", "/api/draw", b"{}", "application/json", 400, "no JSON object with 'z'"),
        ("POST", "/api/draw", b'{"z": [1, 2]}', "application/json", 400, "16 finite numbers"),
        ("POST", "/api/draw", b'{"z": [NaN, ' + b"1, " * 14 + b"1]}", "application/json", 400, "numbers"),
        ("POST", "/api/draw", b'{"z": ["a"]}', "application/json", 400, "must be numbers"),
    ],
)
def test_garbage_is_answered_with_a_sentence_and_does_no_harm(server, method, path, body, kind, status, sentence):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == status, text
    if sentence is not None:
        assert sentence in json.loads(text)["error"]
    assert ask(server, "/api/model")[0] == 200


def test_an_upload_that_is_too_large_is_refused_without_being_kept(server):
    status, answer = ask(server, "/api/style", bytes(MOST_BYTES + 1), Content_Type="image/png")
    assert status == 413
    assert "at most 12" in json.loads(answer)["error"]


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 30, "1e3"])
def test_a_length_that_is_none_is_refused(server, length):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", "/api/style")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400
    assert answer.getheader("Connection") == "close"  # where the next request would begin is not known
    connection.close()


def test_only_pages_of_its_own_are_let_in(server):
    def status(**headers):
        return ask(server, "/api/model", **headers)[0]

    port = server.server_port
    assert status() == status(Host=f"localhost:{port}") == status(Host=f"[::1]:{port}") == 200
    assert status(Host="evil.example") == status(Host=f"localhost.evil.example:{port}") == status(Host="") == 403
    body = as_bytes(digit())
    own, foreign = f"http://127.0.0.1:{port}", "http://evil.example"
    assert ask(server, "/api/style", body, Content_Type="image/png", Origin=own)[0] == 200
    assert ask(server, "/api/style", body, Content_Type="image/png", Origin=foreign)[0] == 403
    assert ask(server, "/api/style", body, Content_Type="image/png", Origin="null")[0] == 403
    # An <img> on a page from elsewhere asks without an origin.
    assert status(Sec_Fetch_Site="cross-site") == status(Sec_Fetch_Site="same-site") == 403
    assert status(Sec_Fetch_Site="same-origin") == status(Sec_Fetch_Site="none") == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to the page
    with urllib.request.urlopen(f"{server.url}api/examples.png", timeout=60) as answer:
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_many_at_once_get_the_answers_to_their_own_questions(server):
    pictures = [as_bytes(digit(box=(60, 40, 100 + 10 * i, 240))) for i in range(6)]
    alone = [style(server, picture) for picture in pictures]
    assert len({tuple(state["z"]) for state in alone}) == 6
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda i: style(server, pictures[i % 6]), range(48)))
    assert together == [alone[i % 6] for i in range(48)]


def test_a_scan_of_ink_on_paper_is_seen_as_a_drawing(server):
    """Grey paper in uneven light, a JPEG with the turn of a phone's camera."""
    paper = np.linspace(150, 190, 600)[:, None] + np.linspace(0, 20, 800)
    paper += np.random.default_rng(0).normal(0, 3, paper.shape)
    mask = np.asarray(digit((800, 600), (300, 150, 400, 350), 20)) > 0
    scan = Image.fromarray(np.where(mask, 40, paper).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    scan.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif)
    image = seen(style(server, buffer.getvalue(), kind="image/jpeg"))
    clean = centre_strokes(np.asarray(digit((800, 600), (300, 150, 400, 350), 20)))
    assert np.abs(image.astype(float) - clean).mean() < 6
    assert image[0].max() == image[:, 0].max() == 0


def test_colours_are_taken_as_they_are():
    class Colours:
        class model:  # noqa: N801
            image_shape = (32, 32, 3)

    blank = Demo.__new__(Demo)
    blank.trained, blank.handwriting, blank.ground = Colours, False, 0.5
    picture = np.asarray(digit((32, 32), (8, 8, 20, 24), 3).convert("RGB"))
    np.testing.assert_array_equal(blank._prepared(as_bytes(Image.fromarray(picture)), True), picture)


def test_an_address_that_is_taken_is_refused(server, page):
    with pytest.raises(UserError, match=r"127\.0\.0\.1, port .* --port=0"):
        Server(page, port=server.server_port)


# --- In a browser -----------------------------------------------------------------------------------------------------

TILES = "[...document.querySelectorAll('#tiles canvas')].map(c => c.toDataURL())"
STROKES = [(0.3, 0.3), (0.5, 0.2), (0.65, 0.35), (0.5, 0.5), (0.65, 0.7), (0.3, 0.75)]


@pytest.fixture(scope="module")
def browser(server):
    with chromium.Chromium() as found:
        found.open(server.url)
        found.wait("document.body.dataset.ready === 'yes' && slots.a.state && slots.b.state")
        settled(found)
        yield found
        assert found.errors == []


def settled(browser):
    """Waits until all that was asked for is there, and returns what the tiles show."""
    browser.wait("busy === 0")
    return browser.run(TILES)


def tile(data_url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("L"))


@needs_chromium
def test_strokes_with_the_mouse_change_every_tile(browser, server):
    before = settled(browser)
    browser.stroke("#a .pad canvas", STROKES)
    after = settled(browser)
    assert len(after) == 10
    assert all(a != b for a, b in zip(before, after, strict=True))
    z = browser.run("slots.a.state.z")
    sheet = draw(server, z)
    np.testing.assert_array_equal(np.concatenate([tile(t) for t in after], axis=1), sheet)
    # Another stroke and back.
    browser.stroke("#a .pad canvas", [(0.2, 0.2), (0.8, 0.8)])
    assert settled(browser) != after
    browser.click("#a .undo")
    assert settled(browser) == after


@needs_chromium
def test_the_slider_leads_from_one_style_to_the_other(browser, server):
    browser.run("slots.a.pick(1), slots.b.pick(11)")
    browser.wait("slots.a.source.example === 1 && slots.b.source.example === 11")
    at_a = settled(browser)

    def slide(value):
        browser.run(f"(() => {{ const s = $('share'); s.value = {value}; s.dispatchEvent(new Event('input')); }})()")
        return settled(browser)

    at_b = slide(100)
    halfway = slide(50)
    assert len({tuple(tiles) for tiles in (at_a, halfway, at_b)}) == 3
    sheet = draw(server, browser.run("slots.b.state.z"))
    np.testing.assert_array_equal(np.concatenate([tile(t) for t in at_b], axis=1), sheet)
    assert slide(0) == at_a


@needs_chromium
def test_the_content_of_b_is_shown_large_in_the_style_of_a(browser):
    browser.run("slots.b.pick(4)")
    browser.wait("slots.b.source.example === 4")
    settled(browser)
    label = browser.run("slots.b.state.label")
    assert browser.run("content") == label
    assert browser.run(f"$('result').toDataURL() === {TILES}[{label}]")
    other = (label + 1) % 10
    browser.click(f"#tiles button:nth-child({other + 1})")
    browser.wait(f"content === {other}")
    assert browser.run(f"$('result').toDataURL() === {TILES}[{other}]")


@needs_chromium
def test_uploads_work_and_broken_ones_are_explained(browser, tmp_path):
    before = settled(browser)
    (tmp_path / "good.png").write_bytes(as_bytes(digit(ink=0, ground=255)))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    browser.upload("#a .file", tmp_path / "good.png")
    browser.wait("slots.a.source instanceof File && slots.a.state.seen === slots.a.shown?.src")
    after = settled(browser)
    assert after != before
    assert browser.run("document.querySelector('#a .error').textContent") == ""
    browser.upload("#a .file", tmp_path / "broken.png")
    browser.wait("document.querySelector('#a .error').textContent.includes('not an image')")
    assert settled(browser) == after
    browser.errors.clear()  # Chromium logs the refusal
    browser.click("#a .clear")
    browser.wait("$('tiles').classList.contains('stale') && $('share').disabled")
    browser.stroke("#a .pad canvas", STROKES)
    browser.wait("!$('tiles').classList.contains('stale')")


@needs_chromium
def test_a_phone_draws_with_a_finger_and_nothing_is_cut_off(server):
    with chromium.Chromium(390, 844, phone=True) as phone:
        phone.open(server.url)
        phone.wait("document.body.dataset.ready === 'yes' && slots.a.state && slots.b.state")
        before = settled(phone)
        phone.touch_stroke("#a .pad canvas", STROKES)
        assert settled(phone) != before
        assert phone.run("document.documentElement.scrollWidth") <= 390
        assert phone.errors == []


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_serves_a_page_and_ends_cleanly(page, tmp_path):
    from infoae_jax.inference.npz import write_npz

    trained = page.trained
    record = {
        "format": folder_module.FORMAT,
        "config": json.loads(json.dumps(to_dict(trained.info.config))),
        "data": {"image_shape": [28, 28, 1], "class_names": list("0123456789"), "num_train": 1, "num_test": 1}
        | {"fingerprint": "x"},
    }
    extras = {"examples/images": page.examples.images, "examples/labels": page.examples.labels}
    write_npz(tmp_path / "mine.npz", trained.module, trained.variables, record, "float32", extras)
    command = [sys.executable, "-m", "infoae_jax", "demo", str(tmp_path / "mine.npz"), "--port=0"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            url = line.split()[1]
            with urllib.request.urlopen(f"{url}api/model", timeout=30) as answer:
                model = json.load(answer)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert line.startswith("mine: http://127.0.0.1:")
    assert model["name"] == "mine"
    assert len(model["examples"]) == 12
    assert (process.returncode, out.strip(), err) == (0, "Ended.", "")


def test_examples_of_a_run_are_of_all_classes(tiny_config):
    info = RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "x")
    images, labels = example_images(info, 20)
    assert images.shape == (20, 32, 32, 3)
    assert labels.tolist() == list(range(10)) * 2
