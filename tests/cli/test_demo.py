import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from configs import mnist
from infoae_jax.cli.demo import origin
from infoae_jax.cli.main import main
from infoae_jax.inference.npz import write_npz
from tests.bundles import random_bundle


def test_it_serves_a_page_and_ends_cleanly(tmp_path):
    bundle = random_bundle(mnist.get_config("tiny"), (28, 28, 1), tuple("0123456789"))
    extras = {"examples/images": np.zeros((12, 28, 28, 1), np.uint8), "examples/labels": np.zeros(12, np.int32)}
    write_npz(tmp_path / "mine.npz", bundle._replace(extras=extras))
    command = [sys.executable, "-m", "infoae_jax", "demo", str(tmp_path / "mine.npz"), "--port=0"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            url = line.split()[1]
            with urllib.request.urlopen(f"{url}api/model", timeout=300) as answer:
                model = json.load(answer)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    assert line.startswith("mine: http://127.0.0.1:")
    assert model["name"] == "mine"
    assert len(model["examples"]) == 12
    assert (process.returncode, out.strip(), err) == (0, "Ended.", "")


def test_mistakes_are_answered_with_a_sentence(capsys):
    assert main(["demo", "mnist", "--port=70000"]) == 2
    assert "--port is 70000, but must be from 0 (a free one) to 65535" in capsys.readouterr().err
    assert main(["demo", "nothing"]) == 2
    assert "called 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://demo.example.com", "https://demo.example.com"),
        ("HTTP://Demo.Example.com:8080", "http://demo.example.com:8080"),
        ("https://demo.example.com:443", "https://demo.example.com"),
        ("http://demo.example.com:443", "http://demo.example.com:443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_origins_are_read_as_browsers_write_them(text, read):
    assert origin(text) == read


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "*",
            "null",
            "demo.example.com",
            "//demo.example.com",
            "ftp://demo.example.com",
            "https://",
            "https://:80",
        ),
        *(
            "https://host//",
            "https://host/path",
            "https://host?a",
            "https://host#a",
            "https://me@host",
            "https://*.host",
        ),
        *("https://host:0", "https://host:65536", "https://host:x", "https://host:", "https://ho st", " https://host"),
        *("https://host\n", "https://[::1", "https://[::g]", "https://b\u00fccher.example", "https://a,https://b"),
    ],
)
def test_what_is_no_origin_gets_a_sentence(text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "mnist", f"--trusted_origin={text}"])
    assert ended.value.code == 2
    assert f"{text!r} is not written https://HOST or https://HOST:PORT, without a path" in capsys.readouterr().err
