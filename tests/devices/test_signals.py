"""Programs that are asked to end, seen from outside."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import time
from concurrent.futures import ThreadPoolExecutor
from infoae_jax.devices.signals import end_on_signals, nothing_to_save, stop_signals
end_on_signals(130, "Interrupted.")
def sleep():
    print("ready", flush=True)
    time.sleep(60)
"""
THREAD = "with ThreadPoolExecutor() as pool:\n    pool.submit(sleep).result()"  # an exception waits for it
DEAF = """
print("ready", flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
COMPILING = "with stop_signals(), nothing_to_save():\n    sleep()"
SAVING = "with stop_signals() as stopped:\n    sleep()\n    time.sleep(6)\n    print(stopped())"


@pytest.fixture
def start():
    started = []

    def run(code):
        command = [sys.executable, "-c", BEGIN + code]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        time.sleep(0.1)
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [THREAD, DEAF])
def test_a_program_ends_soon_whatever_does_not_hear_of_it(start, code, number):
    process = start(code)
    process.send_signal(number)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err.endswith("Interrupted.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", ["sleep()", COMPILING])
def test_what_has_nothing_to_save_is_interrupted_at_once(start, code, number):
    process, begin = start(code), time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=5)
    assert time.monotonic() - begin < 3
    assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_what_is_saving_may_take_its_time(start):
    process = start(SAVING.replace("sleep()", 'print("ready", flush=True)'))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert out.endswith("True\n")
    assert process.returncode == 0


def test_how_a_program_ends_is_said_once(start):
    told = "\nfrom infoae_jax.devices.signals import tell_interrupted\ntry:\n    sleep()\nexcept KeyboardInterrupt:\n"
    process = start(f"{told}    tell_interrupted('Interrupted.')\n    time.sleep(60)  # as if threads were still busy")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=8)
    assert process.returncode == 130
    assert err == "Interrupted.\n"
