"""The benchmark for a GPU: rehearsed on the CPU, and what it makes of processes that fail."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
PRINTS = """import json, os, sys, time
print("not a line")
print(json.dumps({"device": "d", "word": os.environ["WORD"]}), flush=True)
"""


def lines_of(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    """A function that runs a program as a job; it returns whether that ended well, and the lines."""

    def run(program, seconds=20.0, budget=60.0, python=sys.executable):
        session = gpu.Session(tmp_path / "out.jsonl", budget)
        ended_well = session.run(gpu.Job("first", seconds, 1), [python, "-c", program], {"WORD": "x"}, start="cold")
        return ended_well, lines_of(tmp_path / "out.jsonl")

    return run


def test_the_lines_of_a_process_say_what_made_them(run):
    ended_well, (line,) = run(PRINTS)
    assert ended_well
    assert line | {"part": "first", "start": "cold", "device": "d", "word": "x"} == line
    assert {"jax", "python"} <= line.keys()


@pytest.mark.parametrize(
    ("ending", "seconds", "reason"),
    [
        ("sys.exit('broken')", 20.0, "exit code 1"),
        ("time.sleep(60)", 1.0, "ended at its limit of 1 s"),
        ("import subprocess; subprocess.run(['sleep', '60'])", 1.0, "ended at its limit of 1 s"),
    ],
)
def test_a_process_that_fails_keeps_its_lines_and_costs_no_more_than_its_limit(run, ending, seconds, reason):
    begin = time.monotonic()
    ended_well, (kept, failure) = run(PRINTS + ending, seconds)
    assert time.monotonic() - begin < 20
    assert not ended_well
    assert kept["word"] == "x"
    assert failure | {"part": "first", "start": "cold", "device": "d", "failed": reason} == failure
    assert failure["stderr"] == (["broken"] if "broken" in ending else [])


def test_a_process_that_cannot_be_started_leaves_a_line(run):
    ended_well, (line,) = run("", python="no-such-python")
    assert not ended_well
    assert "no-such-python" in line["failed"]


def test_a_job_that_the_budget_does_not_suffice_for_is_skipped(run):
    assert run("", budget=gpu.GRACE)[1][0]["skipped"] == "0 s are left, but it needs 1 s"


@pytest.mark.slow
def test_every_part_writes_sound_lines(tmp_path, child_environment):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", f"--out={out}", "--budget=800"]
    environment = {**child_environment, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    lines = [line for line in lines_of(out) if line["part"] not in ("machine", "rival")]
    assert not [line for line in lines if {"failed", "skipped"} & line.keys()]
    parts = {part: [line for line in lines if line["part"] == part] for part in ("first", "steps", "fit", "groups")}
    assert {part: len(some) for part, some in parts.items()} == {"first": 8, "steps": 2, "fit": 1, "groups": 2}
    assert {line["device"] for line in lines} == {"cpu"}
    for line in (*parts["first"], *parts["steps"], *parts["groups"]):
        assert line["ms_per_step"] > 0
        assert 0 < line["loss"] < 1
    for line in parts["first"]:
        assert 0 < line["import_s"] < line["seconds"]
    assert [line["runs"] for line in parts["groups"]] == [0, 1]
    (fit,) = parts["fit"]
    assert fit["finished"]
    assert [phase["epochs"] for phase in fit["phases"].values()] == [2, 2, 1]
    assert fit["programs"] > 3
    for line in lines_of(out):
        if line["part"] == "rival":  # PyTorch may be missing
            assert line.get("ms_per_step", 0) > 0 or "No module named 'torch'" in line["stderr"][-1]
