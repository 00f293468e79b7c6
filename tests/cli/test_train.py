"""The real command: fresh, stopped, killed, resumed, and fed with bad input."""

import functools
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

import infoae_jax
from infoae_jax.devices import setup
from infoae_jax.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launch(cache, tmp_path, child_environment):
    def start(*args, config="configs/rendered.py:tiny", workdir="run", environment=child_environment, **options):
        command = [sys.executable, "launch.py", f"--config={config}", f"--config.data.cache_dir={cache}"]
        command += [f"--workdir={tmp_path / workdir}", "--cpu_devices=4", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)

    return start


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out, err


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def parameters(folder):
    return [np.asarray(x) for x in jax.tree.leaves(infoae_jax.load(folder).variables)]


def steps(folder):
    return len(read_metrics(folder, "autoencoder_step"))


def test_fresh_then_again(launch, tmp_path):
    out, _ = finish(launch())
    assert "Finished" in out
    assert "autoencoder 1/2  reconstruction " in out
    assert read_metrics(tmp_path / "run", "start")[0]["device"] == "4 x cpu"
    written = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    out, _ = finish(launch())
    assert "Finished" in out
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == written


@pytest.mark.slow
def test_evaluates_at_the_end_if_asked_to_and_the_report_shows_it(launch, tmp_path):
    out, _ = finish(launch("--config.evaluate.at_end=quick"))
    assert "probe accuracy" in out
    assert (tmp_path / "run" / "evaluation_quick.json").exists()
    command = [sys.executable, "-m", "infoae_jax", "report", str(tmp_path / "run")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert "probe accuracy" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_second_start_compiles_nothing(launch, tmp_path, child_environment):
    environment = {k: v for k, v in child_environment.items() if not k.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    if tuple(map(int, jaxlib.__version__.split(".")[:2])) in setup._ONEDNN_VERSIONS:  # of which XLA can keep nothing
        environment["XLA_FLAGS"] += " --xla_cpu_experimental_onednn_custom_call=false"
    compiled = []
    for workdir in ("one", "two"):
        finish(launch(workdir=workdir, environment=environment))
        files = (tmp_path / "cache" / "infoae_jax" / "compiled").glob("*/*")
        compiled.append(sorted(p.name for p in files if not p.name.endswith("-atime")))
    assert any("jit_call" in name for name in compiled[0])
    assert compiled[0] == compiled[1]


LONGER = ("--config.train.epochs=6", "--config.checkpoint.every_seconds=0", "--config.log.every_steps=1")


@pytest.mark.parametrize("optimised", [False, pytest.param(True, marks=pytest.mark.slow)])  # as for users
def test_killed_at_any_moment_and_resumed_is_bit_identical(launch, tmp_path, child_environment, optimised):
    """Checkpoints are written all the time here, so that most kills hit a save; one run is never stopped."""
    if optimised:
        launch = functools.partial(launch, environment=child_environment | {"XLA_FLAGS": ""})
    finish(launch(*LONGER, workdir="whole"))
    kills = 0
    for target in (1, 7, 13):
        process = launch(*LONGER)
        wait_for(lambda target=target: steps(tmp_path / "run") >= target, process)
        time.sleep(0.01 * target)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    finish(launch(*LONGER))
    assert kills >= 2
    assert len(read_metrics(tmp_path / "run", "start")) == kills + 1
    whole, run = parameters(tmp_path / "whole"), parameters(tmp_path / "run")
    for mine, theirs in zip(run, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("which", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signals_save_and_say_how_to_resume(launch, tmp_path, which):
    args = ("--config.train.epochs=500",)
    process = launch(*args)
    wait_for(lambda: steps(tmp_path / "run") >= 4, process)
    process.send_signal(which)
    out, _ = finish(process)
    assert "Stopped and saved at step" in out
    assert "--config.train.epochs=500" in out.rpartition("To go on: python launch.py")[2]
    assert read_metrics(tmp_path / "run")[-1]["kind"] == "stop"
    saved = int(out.partition("at step ")[2].partition(".")[0])
    assert (tmp_path / "run" / "checkpoints" / str(saved)).is_dir()


def test_disk_full_while_saving_keeps_the_former_checkpoint(launch, tmp_path):
    """A limit on the size of a file stands in for a full disk: writing beyond it fails in the same place."""
    process = launch(*LONGER, "--config.train.epochs=200")
    wait_for(lambda: len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*/commit_success.txt"))) > 1, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "make room" in err.splitlines()[-1].lower()
    before = max(
        int(p.parent.name)
        for p in (tmp_path / "run" / "checkpoints").glob("*/commit_success.txt")
        if p.parent.name.isdigit()
    )
    process = launch(*LONGER, "--config.train.epochs=200")
    wait_for(lambda: len(read_metrics(tmp_path / "run", "start")) == 2, process)
    process.kill()
    process.communicate()
    assert read_metrics(tmp_path / "run", "start")[-1]["step"] == before


BAD = [
    (["--config.model.botleneck=3"], "botleneck"),
    (["--config.model.bottleneck=abc"], "--config.model.bottleneck=abc: not a whole number"),
    (["--config.train.learning_rate=abc"], "--config.train.learning_rate=abc: not a number"),
    (["--config.train.epoch=3"], "there is no setting"),
    (["--config.model.bottleneck=0"], "config.model.bottleneck is 0"),
    (["--config.train.lambda_adv=-1"], "config.train.lambda_adv is -1"),
    (["--config.train.batch_size=1024"], "only 256 images"),
    (["--config.data.image_size=30"], "multiple of 4"),
    (["--config.model.filters=(8,16)"], "3 entries"),
    (["--no_such_flag=1"], "no_such_flag"),
    (["surplus"], "surplus"),
    (["--cpu_devices=0"], "cpu_devices"),
    (["--cpu_devices=100000"], "--cpu_devices is 100000, but must be from 1 to 256"),
    ([f"--cpu_devices={10**400}"], "--cpu_devices is 1000"),
    ([f"--num_processes={10**400}", "--coordinator=a:1"], "--num_processes=1000"),
    ([f"--process_id={int('1' + '0' * 4000)}", "--coordinator=a:1"], "--process_id=1000"),
    (["--num_processes=2", "--process_id=2", "--coordinator=a:1"], "--process_id is 2, but must be below"),
    ([f"--config.train.epochs={10**400}"], "config.train.epochs is 1000"),
    ([f"--config.train.epochs={'9' * 5000}"], "--config.train.epochs=9999"),
    ([f"--config.checkpoint.every_seconds={10**400}"], "config.checkpoint.every_seconds is inf"),
    (["--config.train.seed=3", "--config.data.seed=3", "--config.train.epoch=3"], "(from --config.train.epoch=3)"),
    (["--workdir="], "--workdir is ''"),
    (["--workdir=gs://bucket/run"], "--workdir is 'gs://bucket/run', but must be a path on this machine"),
    (["--workdir=" + "x" * 300], "--workdir is 'xxx"),
    (["--config.data.cache_dir=file:///x"], "config.data.cache_dir is 'file:///x'"),
    (
        ["--config.data.name=folder", "--config.data.channels=3", "--config.data.dir=gs://x"],
        "config.data.dir is 'gs://x'",
    ),
]


@pytest.mark.parametrize(("args", "says"), BAD)
def test_bad_input_gets_a_sentence_and_code_2(launch, tmp_path, args, says):
    _, err = finish(launch(*args), code=2)
    assert says in err
    assert not list(tmp_path.glob("run/*.json"))


def test_the_file_that_raises_is_named_with_its_line(launch, tmp_path):
    path = tmp_path / "mine.py"
    for line in ("1 / 0", "open('nothing')", "raise ValueError", "raise TypeError('no')", "unknown"):
        path.write_text(f"def get_config():\n    x = 3\n    {line}\n")
        _, err = finish(launch(config=path), code=2)
        assert err.startswith(f"error: {path}, line 3: ")
    for text, says in (("", "it has no function get_config()"), ("def get_config(): pass", "returns nothing")):
        path.write_text(text)
        _, err = finish(launch(config=path), code=2)
        assert str(path) in err
        assert says in err


def test_infoae_train_finds_the_configurations_by_name(tmp_path, child_environment):
    environment = {**child_environment, "PYTHONPATH": str(ROOT)}
    (tmp_path / "rendered").mkdir()  # is no configuration
    (tmp_path / "mine.py").write_text("from configs.rendered import get_config, sweep")
    for config in (["--config=rendered:tiny"], ["--config", "rendered"], ["--config=mine.py:tiny"]):
        command = [sys.executable, "-m", "infoae_jax", "train", *config]
        ways = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
        listing = subprocess.run([*command, "--sweep_list"], **ways)
        assert listing.returncode == 0, listing.stderr
        assert "36 new" in listing.stdout
        mistake = subprocess.run([*command, "--config.model.bottleneck=0"], **ways)
        assert (mistake.returncode, "bottleneck is 0" in mistake.stderr) == (2, True)
    assert "--workdir: Run folder" in subprocess.run([*command[:4], "--help"], **ways).stdout


@pytest.mark.slow
def test_a_wheel_has_the_configurations(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={tmp_path}", str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "mine.py").write_text("from configs.rendered import get_config, sweep")
    for config in ("rendered:tiny", "mine.py:tiny"):
        command = [sys.executable, "-m", "infoae_jax", "train", f"--config={config}", "--sweep_list"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
        listing = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "36 new" in listing.stdout, listing.stderr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("configs/nowhere.py", "there is no configuration file 'configs/nowhere.py'"),
        ("README.md", "README.md, line"),
        ("configs", "configs"),
        ("configs/rendered.py:huge", "unknown variant 'huge'"),
        ("configs/folder.py", "config.data.dir is empty"),
    ],
)
def test_bad_config_files(launch, config, says):
    _, err = finish(launch(config=config), code=2)
    assert says in err


def test_no_config_at_all():
    result = subprocess.run([sys.executable, "launch.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--config=mnist" in result.stderr


def test_another_experiment_in_the_same_folder(launch):
    finish(launch())
    _, err = finish(launch("--config.train.seed=5", "--config.train.lambda_adv=0.25"), code=2)
    assert "train.seed: 0 -> 5" in err
    assert "train.lambda_adv: 0.003 -> 0.25" in err


def test_divergence_ends_with_code_1_and_advice(launch):
    args = ["--config.train.lambda_adv=100", "--config.train.learning_rate=0.5", "--config.train.epochs=50"]
    _, err = finish(launch(*args, config="configs/rendered.py:paper,tiny"), code=1)
    assert "diverged in epoch" in err
    assert "--config.model.latent=sphere" in err
