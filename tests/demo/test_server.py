import concurrent.futures
import http.client
import io
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from infoae_jax.demo.app import MAX_BYTES
from infoae_jax.demo.server import Server
from infoae_jax.errors import UserError
from tests.drawings import as_file, digit


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


def encode(server, body, query="", kind="image/png"):
    status, answer = ask(server, f"/api/encode{query}", body, Content_Type=kind)
    assert status == 200, answer
    return json.loads(answer)


def test_each_address_gives_the_demos_answer(server, demo):
    assert ask(server, "/") == (200, demo.page)
    status, said = ask(server, "/api/model")
    assert (status, json.loads(said)) == (200, json.loads(json.dumps(demo.describe())))
    assert ask(server, "/api/examples.png") == (200, demo.example_sheet())
    file = as_file(digit())
    state = encode(server, file, "?drawing=1")
    assert state == demo.encode(file, is_drawing=True)
    assert encode(server, file, "?label=3") == demo.encode(file, label=3)
    assert encode(server, b'{"example": 11}', kind="application/json") == demo.encode_example(11)
    body = json.dumps({"z": state["z"]}).encode()
    status, sheet = ask(server, "/api/decode", body, Content_Type="application/json")
    assert (status, sheet) == (200, demo.decode(state["z"]))
    assert Image.open(io.BytesIO(sheet)).size == (280, 28)


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "sentence"),
    [
        ("GET", "/nothing", None, None, 404, "nothing at /nothing"),
        ("GET", "/../../etc/passwd", None, None, 404, "nothing at"),
        ("POST", "/", b"x", "image/png", 404, "nothing at"),
        ("PUT", "/api/decode", b"{}", "application/json", 501, None),
        ("POST", "/api/encode", b"", "image/png", 400, "it is empty"),
        ("POST", "/api/encode", b"\x89PNG\r\n\x1a\n garbage", "image/png", 400, "cannot be read"),
        ("POST", "/api/encode", np.random.default_rng(0).bytes(5000), "image/jpeg", 400, "not an image"),
        ("POST", "/api/encode", as_file(digit())[:300], "image/png", 400, "cannot be read"),
        ("POST", "/api/encode", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/png", 400, "not an image"),
        ("POST", "/api/encode", as_file(Image.new("L", (99, 99), 7)), "image/png", 422, "shows no strokes"),
        ("POST", "/api/encode", as_file(Image.new("1", (5001, 5000))), "image/png", 413, "25 million"),
        ("POST", "/api/encode?label=x", as_file(digit()), "image/png", 400, "not a number"),
        ("POST", "/api/encode?label=10", as_file(digit()), "image/png", 400, "10, but classes are numbered"),
        ("POST", "/api/encode", b'{"example": 12}', "application/json", 400, "no example 12"),
        ("POST", "/api/encode", b'{"example": "1"}', "application/json", 400, "no example '1'"),
        ("POST", "/api/decode", b"[" * 100_000, "application/json", 400, "not a JSON object"),
        ("POST", "/api/decode", b"{}", "application/json", 400, "not a JSON object with 'z'"),
        ("POST", "/api/decode", b'{"z": [1, 2]}', "application/json", 400, "16 finite numbers"),
        ("POST", "/api/decode", b'{"z": [NaN, ' + b"1, " * 14 + b"1]}", "application/json", 400, "finite numbers"),
        ("POST", "/api/decode", b'{"z": [1e31, ' + b"1, " * 14 + b"1]}", "application/json", 400, "finite numbers"),
        ("POST", "/api/decode", b'{"z": ["a"]}', "application/json", 400, "must be 16 finite numbers"),
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


def test_a_mistake_of_ours_is_an_answer_too(server, demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "describe", lambda: 1 / 0)
    status, answer = ask(server, "/api/model")
    assert status == 500
    assert "should not have happened: ZeroDivisionError" in json.loads(answer)["error"]
    assert capsys.readouterr().err == "error: /api/model: ZeroDivisionError('division by zero')\n"


def test_an_upload_that_is_too_large_is_refused(server):
    status, answer = ask(server, "/api/encode", bytes(MAX_BYTES + 1), Content_Type="image/png")
    assert status == 413
    assert "maximum is 12" in json.loads(answer)["error"]


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 30, "1e3"])
def test_an_impossible_length_is_refused(server, length):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", "/api/encode")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400
    assert answer.getheader("Connection") == "close"  # where the next request would begin is not known
    connection.close()


def test_only_its_own_page_is_let_in(server):
    def status(**headers):
        return ask(server, "/api/model", **headers)[0]

    port = server.server_port
    assert status() == status(Host=f"localhost:{port}") == status(Host=f"[::1]:{port}") == 200
    assert status(Host="evil.example") == status(Host=f"localhost.evil.example:{port}") == status(Host="") == 403
    body = as_file(digit())
    own, foreign = f"http://127.0.0.1:{port}", "http://evil.example"
    assert ask(server, "/api/encode", body, Content_Type="image/png", Origin=own)[0] == 200
    assert ask(server, "/api/encode", body, Content_Type="image/png", Origin=foreign)[0] == 403
    assert ask(server, "/api/encode", body, Content_Type="image/png", Origin="null")[0] == 403
    # An <img> on a page from elsewhere asks without an origin.
    assert status(Sec_Fetch_Site="cross-site") == status(Sec_Fetch_Site="same-site") == 403
    assert status(Sec_Fetch_Site="same-origin") == status(Sec_Fetch_Site="none") == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to the page
    with urllib.request.urlopen(f"{server.url}api/examples.png", timeout=60) as answer:
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_many_at_once_get_the_answers_to_their_own_questions(server):
    files = [as_file(digit(box=(60, 40, 100 + 10 * i, 240))) for i in range(6)]
    alone = [encode(server, file) for file in files]
    assert len({tuple(state["z"]) for state in alone}) == 6
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda i: encode(server, files[i % 6]), range(48)))
    assert together == [alone[i % 6] for i in range(48)]


def test_an_address_that_is_taken_is_refused(server, demo):
    with pytest.raises(UserError, match=r"127\.0\.0\.1, port .* --port=0"):
        Server(demo, port=server.server_port)
