"""Two processes on this machine stand in for two hosts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax.config import parse
from infoae_jax.devices import hosts
from infoae_jax.errors import UserError
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training.fit import fit

ROOT = Path(__file__).parents[2]
SMALL = {"model.filters": (2, 2, 2), "model.hidden": 8, "train.batch_size": 32, "log.every_steps": 1}


# A host may wait for the other as long as a busy machine needs to compile.
PATIENT = "--xla_cpu_collective_timeout_seconds=280 --xla_cpu_collective_call_terminate_timeout_seconds=280"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(cache, folder, *args, processes=2):
    """The real command, in as many processes, each with its share of four devices."""
    settings = [f"--config.{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "launch.py", "--config=configs/rendered.py:tiny", f"--config.data.cache_dir={cache}"]
    command += [f"--cpu_devices={4 // processes}", f"--workdir={folder}", *settings, *args]
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    environment = {**os.environ, "XLA_FLAGS": PATIENT}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [*command, *([f"--process_id={i}"] if processes > 1 else [])], cwd=ROOT, env=environment, **pipes
        )
        for i in range(processes)
    ]


def finish(processes, code=0):
    said = [process.communicate(timeout=300) for process in processes]
    for process, (out, err) in zip(processes, said, strict=True):
        assert process.returncode == code, out + err
    return said


def changed(tiny):
    tiny.unlock()
    for name, value in SMALL.items():
        section, _, field = name.partition(".")
        tiny[section][field] = value
    return parse(tiny)


def assert_alike(folder, other, kinds, tolerance):
    """gloo adds up in another order than threads do, so that late in a training some images may be read otherwise."""
    for kind in kinds:
        mine, theirs = read_metrics(folder, kind), read_metrics(other, kind)
        assert mine
        for line, its in zip(mine, theirs, strict=True):
            for name in ("content_accuracy", "adversary_accuracy"):
                share, other_share = line.pop(name, 0), its.pop(name, 0)
                if not kind.endswith("_step"):  # in a batch an image counts for much
                    assert share == pytest.approx(other_share, abs=0.02)
            for values in (line, its):
                values.pop("images_per_s", None)
                values.pop("kind")
            assert line == pytest.approx(its, rel=tolerance, abs=tolerance / 10)


TALK = """
import sys
import jax, numpy as np
from infoae_jax.devices import hosts
from infoae_jax.errors import UserError
jax.config.update("jax_num_cpu_devices", 1)
hosts.connect(sys.argv[1], 2, int(sys.argv[2]))
first = jax.process_index() == 0
assert hosts.is_first() == first
assert hosts.from_first(lambda: np.arange(3), np.zeros(3, int)).tolist() == [0, 1, 2]
assert hosts.any_of(not first)
assert not hosts.any_of(False)
hosts.check_same("settings", "alike")
fail = lambda: exec("raise UserError(1)")
for wrong in (lambda: hosts.check_same("images", str(first)), lambda: hosts.on_first(fail)):
    try:
        wrong()
    except UserError as error:
        print(error)
"""


def test_processes_agree():
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "XLA_FLAGS": PATIENT, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TALK, address]
    for out, _ in finish([subprocess.Popen([*command, str(i)], cwd=ROOT, env=environment, **pipes) for i in range(2)]):
        assert "The images of process 1 differ from those of process 0" in out
        assert out.splitlines()[-1] == "1"


@pytest.mark.slow
def test_two_processes_train_as_one_with_as_many_devices(cache, tiny, tmp_path):
    said = finish(start(cache, tmp_path / "two", "--config.train.epochs=1"))
    tiny.train.epochs = 1
    fit(changed(tiny), tmp_path / "one")
    assert read_metrics(tmp_path / "two", "start")[0]["device"] == "4 x cpu"
    assert_alike(tmp_path / "two", tmp_path / "one", ("autoencoder_step", "autoencoder", "test"), 1e-4)
    assert "Finished" in said[0][0]
    assert "Finished" not in said[1][0]  # the first one speaks and writes for both
    assert len(read_metrics(tmp_path / "two", "end")) == 1
    infoae_jax.load(tmp_path / "two")


@pytest.mark.slow
def test_all_stop_at_the_same_step_and_resume(cache, tmp_path):
    """All phases; the signal goes to one process alone."""
    longer = ("--config.train.epochs=20", "--config.model.couplings=1", "--config.refine.epochs=1")
    processes = start(cache, tmp_path / "run", *longer)
    end = time.monotonic() + 200
    while len(read_metrics(tmp_path / "run", "autoencoder_step")) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGINT)
    said = finish(processes)
    assert "Stopped and saved at step" in said[0][0]
    assert read_metrics(tmp_path / "run")[-1]["kind"] == "stop"
    finish(start(cache, tmp_path / "run", *longer))
    finish(start(cache, tmp_path / "whole", *longer, processes=1))
    # Over 160 steps differences of rounding have grown.
    kinds = [name + end for name in ("autoencoder", "alignment", "refinement") for end in ("", "_step")]
    assert_alike(tmp_path / "run", tmp_path / "whole", (*kinds, "test"), 2e-2)


@pytest.mark.slow
def test_what_the_first_process_finds_wrong_ends_all(cache, tmp_path):
    finish(start(cache, tmp_path / "run", processes=1))
    for _, err in finish(start(cache, tmp_path / "run", "--config.train.seed=5"), code=2):
        assert "train.seed: 0 -> 5" in err


def test_alone_nothing_is_asked_of_others():
    assert hosts.is_first()
    assert hosts.any_of(True)
    assert not hosts.any_of(False)
    assert hosts.from_first(lambda: 3, 0) == 3
    with pytest.raises(UserError, match="mine"):
        hosts.on_first(lambda: (_ for _ in ()).throw(UserError("mine")))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    (put,) = hosts.put([np.arange(3)], here)
    assert put.sharding == here


def test_flags_that_do_not_go_together():
    command = [sys.executable, "launch.py", "--config=configs/rendered.py:tiny", "--num_processes=2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--coordinator" in result.stderr
