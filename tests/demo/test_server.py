import concurrent.futures
import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
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
        with urllib.request.urlopen(request, timeout=300) as answer:
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
        ("POST", "/api/encode?label=", as_file(digit()), "image/png", 400, "'' is not a number"),
        ("POST", "/api/encode", b'{"example": "1"}', "application/json", 400, "no example '1'"),
        ("POST", "/api/encode", b'{"example": true}', "application/json", 400, "no example True"),
        ("POST", "/api/decode", b"[" * 100_000, "application/json", 400, "not a JSON object"),
        ("POST", "/api/decode", b"{}", "application/json", 400, "not a JSON object with 'z'"),
        ("POST", "/api/decode", b'{"z": [1, 2]}', "application/json", 400, "16 finite numbers"),
        ("POST", "/api/decode", b'{"z": [NaN, ' + b"1, " * 14 + b"1]}", "application/json", 400, "finite numbers"),
        ("POST", "/api/decode", b'{"z": [1e31, ' + b"1, " * 14 + b"1]}", "application/json", 400, "finite numbers"),
        (
            "POST",
            "/api/decode",
            b'{"z": [' + b"9" * 400 + b", 1" * 15 + b"]}",
            "application/json",
            400,
            "finite numbers",
        ),
        ("POST", "/api/decode", b'{"z": [true' + b", 1" * 15 + b"]}", "application/json", 400, "finite numbers"),
        ("POST", "/api/decode", b'{"z": ["1"' + b", 1" * 15 + b"]}", "application/json", 400, "finite numbers"),
        ("POST", "/api/decode", b'{"z": ["a"]}', "application/json", 400, "must be 16 finite numbers"),
    ],
)
def test_garbage_is_answered_with_a_sentence_and_does_no_harm(server, method, path, body, kind, status, sentence):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == status, text
    if sentence is not None:
        assert sentence in json.loads(text)["error"]
    assert ask(server, "/api/model")[0] == 200


def refusal(server, path, body, kind="application/json"):
    status, answer = ask(server, path, body, Content_Type=kind)
    assert 400 <= status < 500, answer
    return json.loads(answer)["error"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400) | st.just(-(10**4000)),
    lambda inside: st.lists(inside) | st.dictionaries(st.text() | st.sampled_from(["z", "example"]), inside),
)
NUMBERS = st.floats() | st.integers() | st.just(10**400)


@given(VALUES | st.fixed_dictionaries({"z": VALUES, "example": VALUES}))
@example({"example": [10**4000]})
def test_any_json_is_refused_with_a_sentence(server, value):
    is_example = isinstance(value, dict) and type(number := value.get("example")) is int and 0 <= number < 12
    for path in ("/api/decode", *(() if is_example else ("/api/encode",))):
        assert refusal(server, path, json.dumps(value).encode())


@given(st.lists(NUMBERS, min_size=16, max_size=16))
@example([1e29] * 16)
def test_any_latent_is_decoded_or_refused_with_a_sentence(server, z):
    status, answer = ask(server, "/api/decode", json.dumps({"z": z}).encode())
    assert status == 200 or (status in (400, 422) and "finite" in json.loads(answer)["error"])


@given(st.binary(), st.sampled_from(["application/json", "image/png", ""]))
def test_any_bytes_are_refused_with_a_sentence(server, body, kind):
    for path in ("/api/decode", "/api/encode"):
        assert refusal(server, path, body, kind)


@pytest.mark.parametrize("depth", [60, 500, 900, 5000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", ('{"z":', "}"), ('{"example":', "}")])
def test_nesting_of_any_depth_is_refused_with_a_sentence(server, depth, brackets):
    begin, end = brackets
    inner = begin * depth + "1" + end * depth
    for text in (inner, f'{{"z": {inner}, "example": {inner}}}'):
        assert refusal(server, "/api/decode", text.encode())
        assert refusal(server, "/api/encode", text.encode())


@given(st.text())
def test_any_label_and_any_query_are_answered(server, text):
    for query in (text, f"label={text}"):
        path = f"/api/encode?{urllib.parse.quote(query, safe='=&%;+#')}"
        status, answer = ask(server, path, b'{"example": 1}', Content_Type="application/json")
        assert status == 200 or (400 <= status < 500 and json.loads(answer)["error"])


@pytest.mark.parametrize("text", ["-1", "1.5", "1e1", "nan", "9" * 400, "9" * 15, "seven", "\u0663", "%zz"])
def test_a_label_that_is_no_class_is_refused_with_a_sentence(server, text):
    assert refusal(server, f"/api/encode?label={urllib.parse.quote(text, safe='%')}", b'{"example": 1}')


def test_a_damaged_model_is_told_in_a_sentence(server, demo, monkeypatch, capfd):
    for name, shape, path, body, code in (
        ("_encode", (16,), "/api/encode", b'{"example": 1}', 500),
        ("_classify", (10,), "/api/encode", b'{"example": 1}', 500),
        ("_decode", (28, 28, 1), "/api/decode", json.dumps({"z": [0.0] * 16}).encode(), 422),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(demo.model, name, lambda x, *_, s=shape: np.full((len(x), *s), np.nan, np.float32))
            status, answer = ask(server, path, body, Content_Type="application/json")
        assert status == code
        assert "the model is damaged: train or export it again" in json.loads(answer)["error"]
    assert capfd.readouterr().err == ""


def test_a_visitor_who_leaves_is_not_mentioned(demo, monkeypatch, capfd):
    monkeypatch.setattr(Server, "daemon_threads", False)  # its end waits for those who answer
    with Server(demo) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        for asked in (
            b"",
            b"GET / HTTP/1.1\r\n",
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{found.server_port}\r\n\r\n".encode(),
        ):
            with socket.create_connection(("127.0.0.1", found.server_port)) as visitor:
                visitor.sendall(asked)
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets it
        assert ask(found, "/api/model")[0] == 200
        found.shutdown()
    assert capfd.readouterr().err == ""


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
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
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
    with urllib.request.urlopen(f"{server.url}api/examples.png", timeout=300) as answer:
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.fixture(scope="module")
def proxied(demo):
    """As `--trusted_origin` says, which writes origins as browsers do."""
    origins = "https://demo.example.com", "http://demo.example.com:8080", "https://second.example"
    with Server(demo, trusted_origins=origins) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def test_behind_a_proxy_the_origins_that_are_trusted_are_let_in(proxied):
    port, body = proxied.server_port, as_file(digit())

    def status(**headers):
        return ask(proxied, "/api/encode", body, Content_Type="image/png", **headers)[0]

    trusted, here = "https://demo.example.com", f"127.0.0.1:{port}"
    for host in (here, "demo.example.com", "demo.example.com:8080", "second.example"):  # a proxy may keep it or not
        for origin in (trusted, "http://demo.example.com:8080", "https://second.example"):
            assert status(Host=host, Origin=origin, Sec_Fetch_Site="same-origin") == 200
    assert ask(proxied, "/", Host="demo.example.com")[0] == 200
    assert status(Host=here, Origin=f"http://{here}") == status() == 200
    # All else is as without a proxy.
    for origin in ("http://demo.example.com", f"{trusted}:8443", f"{trusted}.evil.example", "https://evil.example"):
        for host in (here, "demo.example.com", origin.partition("//")[2]):
            assert status(Host=host, Origin=origin) == 403
    assert status(Host=here, Origin="null") == status(Host="demo.example.com", Origin="null") == 403
    assert (
        status(Host="evil.example") == status(Host="x.demo.example.com") == status(Host="evil.example", Origin=trusted)
    )
    assert status(Host="evil.example") == status(Host="") == 403
    assert status(Host="demo.example.com", Origin=trusted, Sec_Fetch_Site="cross-site") == 403


def test_a_stranger_is_told_what_to_do_behind_a_proxy(server):
    for headers in ({"Host": "demo.example.com"}, {"Origin": "https://demo.example.com"}):
        status, answer = ask(server, "/api/model", **headers)
        assert status == 403
        assert "Behind a proxy, start it with --trusted_origin=https://HOST" in json.loads(answer)["error"]


def test_a_hundred_may_connect_before_the_first_is_answered(demo):
    with Server(demo) as found, contextlib.ExitStack() as stack:
        connections = [http.client.HTTPConnection("127.0.0.1", found.server_port, timeout=300) for _ in range(100)]
        for connection in connections:
            stack.callback(connection.close)
            connection.request("GET", "/api/model")
        threading.Thread(target=found.serve_forever, daemon=True).start()
        assert [connection.getresponse().status for connection in connections] == [200] * 100
        found.shutdown()


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
