"""How the programs end, seen from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infoae_jax.cli.program import BROKEN_PIPE, CRASHED, IMPOSSIBLE

ROOT = Path(__file__).parents[2]
ENDINGS = [
    ("lambda: None", 0),
    ("lambda: 1", 1),
    ("lambda: fail(DivergedError('It diverged.'))", 1),
    ("lambda: fail(UserError('x is 3.'))", IMPOSSIBLE),
    ("lambda: fail(OSError(28, 'No space left'))", IMPOSSIBLE),
    ("lambda: fail(BrokenPipeError())", BROKEN_PIPE),
    ("lambda: fail(KeyboardInterrupt())", 130),
    ("lambda: fail(RuntimeError('oh'))", CRASHED),
    ("lambda: fail(AssertionError())", CRASHED),
    ("lambda: fail(MemoryError())", CRASHED),
    ("lambda: fail(RecursionError())", CRASHED),
]
CODE = """
import sys
from infoae_jax.cli.program import run_program
from infoae_jax.errors import DivergedError, UserError
def fail(error):
    raise error
sys.exit(run_program({}, (130, "Interrupted.")))
"""


def program(code, **options):
    return subprocess.run(
        [sys.executable, "-c", CODE.format(code)], cwd=ROOT, capture_output=True, text=True, errors="replace", **options
    )


@pytest.mark.parametrize(("code", "exit_code"), ENDINGS)
def test_each_ending_has_its_exit_code_and_only_a_fault_a_traceback(code, exit_code):
    result = program(code, check=False)
    assert result.returncode == exit_code, result.stderr
    assert ("Traceback" in result.stderr) == (exit_code == CRASHED)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_every_name_can_be_printed_on_any_console(encoding):
    code = "lambda: print('Größe 大 \\udcff') or fail(UserError('大 is missing'))"
    result = program(code, check=False, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert result.returncode == IMPOSSIBLE
    assert "Traceback" not in result.stderr
    assert "is missing" in result.stderr


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_gone_gets_no_traceback(lines):
    command = [sys.executable, "-c", CODE.format(f"lambda: [print('line') for _ in range({lines})] and None")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == BROKEN_PIPE
    process.stderr.close()
