import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infoae_jax.errors import UserError
from infoae_jax.runs.metrics import append_metrics, read_metrics
from tests.json_values import JSON

KINDS = st.sampled_from(["start", "stop", "end", "test", "autoencoder", "autoencoder_step", "refinement", "epoch"])
LINES = st.fixed_dictionaries(
    {}, optional={"kind": KINDS | JSON, "step": st.integers(0, 9) | JSON, "epoch": JSON, "time": JSON, "device": JSON}
)


def test_lines_are_appended_and_read_back_once(tmp_path):
    append_metrics(tmp_path, "autoencoder", step=1, epoch=1, loss=1.5)
    append_metrics(tmp_path, "autoencoder", step=2, epoch=1, loss=float("nan"))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "autoencoder", "st')  # killed here
    append_metrics(tmp_path, "autoencoder", step=2, epoch=1, loss=0.5)
    for kind in ("diverged", "refinement_step"):
        for _ in range(2):
            append_metrics(tmp_path, kind, step=2)
    assert read_metrics(tmp_path, "autoencoder") == [
        {"kind": "autoencoder", "step": 1, "epoch": 1, "loss": 1.5},
        {"kind": "autoencoder", "step": 2, "epoch": 1, "loss": 0.5},
    ]
    assert len(read_metrics(tmp_path)) == 5
    assert len(read_metrics(tmp_path, "refinement_step")) == 1
    assert read_metrics(tmp_path / "nowhere") == []
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[1])["loss"] == "nan"


@pytest.mark.filterwarnings("ignore:.*left out")
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | LINES.map(lambda v: json.dumps(v).encode()))
@example(b"\xff")
@example(b"5")
@example(b"null")
@example(b"[1]")
@example(b'{"a":1}')
@example(b'{"kind":"epoch"}')
@example(b'{"kind":["test"],"step":1,"epoch":1}')
@example(b'{"kind":"test","step":1}')
@example(b'{"kind":"start","step":0,"time":"now","device":"cpu","environment":{}}')
@example(b"[" * 100_000)
@example(b'{"kind":"test","step":1,"epoch":1,"x":' + b"9" * 5000 + b"}")
def test_whatever_a_line_holds_the_others_are_read(tmp_path_factory, line):
    folder = tmp_path_factory.mktemp("run")
    append_metrics(folder, "autoencoder", step=100, epoch=1)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(line + b"\n")
    append_metrics(folder, "test", step=101, epoch=1)
    found = read_metrics(folder)
    assert found[0] == {"kind": "autoencoder", "step": 100, "epoch": 1}
    assert found[-1] == {"kind": "test", "step": 101, "epoch": 1}
    for between in found[1:-1]:
        assert isinstance(between["kind"], str)
        assert 0 <= between["step"] < 2**31
        if between["kind"] in ("test", "autoencoder", "alignment", "refinement"):
            assert between["epoch"] >= 0
        if between["kind"] == "start":
            assert isinstance(between["device"], str)


def test_lines_left_out_are_counted_in_one_warning(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\n{"kind": "test", "step": 1, "epoch": 1}\n5\n')
    with pytest.warns(
        UserWarning, match=r"metrics.jsonl: left out 2 lines that cannot be read, such as line 1\."
    ) as seen:
        assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    assert len(seen) == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_file_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics.jsonl' cannot be read \(it is not a regular file\)"):
        read_metrics(tmp_path)
