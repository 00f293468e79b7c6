"""`launch.py --sweep`: what is asked for, in this process, and (slow) the real command, whole and killed."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from infoae_jax.cli import sweep
from infoae_jax.cli.sweep import is_sweep, run_sweep_command
from infoae_jax.errors import UserError
from infoae_jax.reports import sweep as report_module
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.sweeps import runner
from infoae_jax.sweeps.results import read_trials
from infoae_jax.sweeps.runner import SweepOutcome

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "rendered.py"


@pytest.fixture
def run_command(tiny_config, tmp_path, monkeypatch):
    """Runs a sweep with these flags; returns whether no trial failed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runner, "run_sweep", lambda *_: pytest.fail("nothing is to be trained here"))

    def run(config=tiny_config, path=CONFIG, overrides=(), **values):
        with flagsaver.flagsaver(**values):
            return run_sweep_command(config, path, tmp_path / "run", overrides, lambda batch_size: None)

    return run


def test_a_sweep_is_listed_by_groups(run_command, tmp_path, capsys):
    assert run_command(sweep_list=True, sweep_filter="seed=0,bottleneck=16|64")
    listed = capsys.readouterr().out
    assert "8 trials in 2 groups" in listed
    assert "8 new" in listed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sweep_filter": "bottleneck=17"}, "bottleneck is one of: 16, 32, 64"),
        ({"sweep_filter": "seed=5"}, "seed is one of: 0, 1, 2"),
        ({"sweep_only": ["seed=0"]}, "has no trial 'seed=0'"),
        ({"overrides": ["train.lambda_adv"]}, "Choose some of these with --sweep_filter=lambda_adv=..."),
        ({"sweep_cluster": "slurm"}, "--sweep_cluster_options=timeout_min=240"),
    ],
)
def test_what_cannot_work_gets_a_sentence_and_leaves_no_trace(run_command, tmp_path, values, says):
    with pytest.raises(UserError, match=re.escape(says)):
        run_command(sweep=True, **values)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("from configs.rendered import get_config\n", r"has no function sweep\(add\)"),
        (
            "def sweep(add):\n    for end in ('quick', 'full'):\n        add(**{'evaluate.at_end': end})\n",
            "sets evaluate.at_end to 'quick' and 'full'",
        ),
    ],
)
def test_configuration_files_that_cannot_be_swept(run_command, tmp_path, content, says):
    own = tmp_path / "own.py"
    own.write_text(content)
    with pytest.raises(UserError, match=says):
        run_command(path=own, sweep=True)


def test_flags_of_a_sweep_are_refused_without_one():
    assert not is_sweep()
    for name, value in (("sweep_filter", "seed=0"), ("sweep_only", ["seed=0"]), ("sweep_cluster", "slurm")):
        with flagsaver.flagsaver(**{name: value}), pytest.raises(UserError, match=f"--{name} is for sweeps: add"):
            is_sweep()
        with flagsaver.flagsaver(**{name: value, "sweep_list": True}):
            assert is_sweep()


@pytest.mark.parametrize("failed", [False, True])
def test_the_end_of_a_sweep_says_what_became_of_it(run_command, monkeypatch, capsys, failed):
    asked = []

    def run_sweep(trials, protocol):
        asked.append(([trial.name for trial in trials], protocol.name))
        return SweepOutcome(stopped=True, busy=["seed=1"], failed=["seed=2"] if failed else [])

    monkeypatch.setattr(runner, "run_sweep", run_sweep)
    monkeypatch.setattr(report_module, "write_sweep_report", lambda folder: pytest.fail("nothing to report"))
    monkeypatch.setattr(sys, "argv", ["launch.py", "--sweep", "--sweep_filter=seed=0|1"])
    assert run_command(sweep=True, sweep_only=["bottleneck=16,lambda_adv=0,seed=0"]) is not failed
    assert asked == [(["bottleneck=16,lambda_adv=0,seed=0"], "quick")]
    said = capsys.readouterr().out
    assert "Stopped; everything is saved. To resume: python launch.py --sweep '--sweep_filter=seed=0|1'" in said
    assert "Other processes train seed=1." in said
    assert said.index("Other processes") < said.index("Stopped; ")
    assert not failed or said.index("trials failed") < said.index("Other processes")  # what to do comes last
    assert ("1 of 1 trials failed; failed.json in their folders says why:\n  seed=2" in said) is failed


def test_a_cluster_gets_a_task_for_each_group(run_command, tmp_path, monkeypatch, capsys):
    class Job:
        job_id = "7"

    tasks = []
    monkeypatch.setattr(sweep.cluster, "submit", lambda commands, *_: tasks.extend(commands) or [Job()] * len(commands))
    monkeypatch.setattr(sys, "argv", ["launch.py", "--sweep", "--sweep_cluster=slurm"])
    assert run_command(sweep=True, sweep_cluster="slurm", sweep_filter="seed=0,lambda_adv=0|0.001,bottleneck=16|32")
    assert [task[1:4] for task in tasks] == [["launch.py", "--sweep", "--sweep_cluster=slurm"]] * 2
    only = [f"--sweep_only=bottleneck=16,lambda_adv={lam},seed=0" for lam in ("0", "0.001")]
    assert tasks[0][4:] == ["--sweep_cluster=", *only]
    said = capsys.readouterr().out
    assert "2 tasks with 4 trials: 7, 7; messages: " in said
    assert "with --sweep_list" in said


def command(tmp_path, cache, *args):
    return [
        *(sys.executable, "launch.py", "--config=configs/rendered.py:tiny", f"--config.data.cache_dir={cache}"),
        *(f"--workdir={tmp_path / 'run'}", *args),
    ]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--sweep_list", "--sweep_filter=seed=0,bottleneck=16|64"], 0, "8 trials in 2 groups"),
        (["--sweep", "--config.train.lambda_adv=0.1"], 2, "error: --config.train.lambda_adv is given, but the sweep"),
        (["--sweep_cluster=slurm"], 2, "error: --sweep_cluster is for sweeps: add --sweep"),
        (["--sweep_list", "--coordinator=auto"], 2, "error: A sweep does not run over several hosts"),
    ],
)
def test_command_line(tmp_path, cache, args, code, says):
    done = subprocess.run(command(tmp_path, cache, *args), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert says in (done.stderr if code else done.stdout)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_three_by_three_takes_less_than_six_minutes(tmp_path, cache):
    """On two cores that do nothing else: it is their time that counts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    args = ("--sweep", "--sweep_filter=seed=0,lambda_adv!=0.001")
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        command(tmp_path, cache, *args), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 360
    results = read_trials(tmp_path / "run" / "sweep")
    assert [result.state for result in results] == ["finished"] * 9
    assert all(result.is_comparable for result in results)
    assert (tmp_path / "run" / "sweep" / "report.html").exists()


@pytest.mark.slow
def test_killed_and_started_again_repeats_one_checkpoint_interval_of_one_trial_at_most(tmp_path, cache):
    """A signal as well. No step that was saved is taken again, and no finished trial is begun again."""
    args = ("--sweep", "--sweep_filter=seed=0,bottleneck=16,lambda_adv<0.004", "--config.log.every_steps=5")
    args += ("--config.checkpoint.every_seconds=0", "--config.train.epochs=30")  # two trials, 120 steps each
    folder = tmp_path / "run" / "sweep"
    trials = [folder / f"bottleneck=16,lambda_adv={lam},seed=0" for lam in ("0", "0.001")]
    environment = {**os.environ, "XLA_FLAGS": ""}

    def started(until):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command(tmp_path, cache, *args), cwd=ROOT, env=environment, **pipes)
        try:
            end = time.monotonic() + 900  # the judges of this data set may be trained first
            while not until():
                assert time.monotonic() < end
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return process

    def steps(trial):
        return max((line["step"] for line in read_metrics(trial, "autoencoder_step")), default=0)

    process = started(lambda: steps(trials[1]) >= 30)
    process.kill()
    process.communicate()
    reached = steps(trials[1])
    process = started(lambda: steps(trials[1]) >= reached + 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "Stopped; everything is saved. To resume: python launch.py" in out
    done = subprocess.run(
        command(tmp_path, cache, *args), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_metrics(trials[0], "start")) == 1
    starts = [line["step"] for line in read_metrics(trials[1], "start")]
    assert starts[0] == 0
    assert reached - 5 <= starts[1] <= reached  # the interval is five
    assert starts[2] > starts[1]
    assert {result.state for result in read_trials(folder)} == {"finished"}
