import subprocess
import sys
from pathlib import Path

import pytest

from infoae_jax.config import parse
from infoae_jax.errors import UserError
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.sweeps import cluster
from infoae_jax.sweeps.trials import list_trials, select_trials

pytest.importorskip("submitit")


def test_each_task_runs_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('done'); sys.exit(int(sys.argv[2]))"
    commands = [[sys.executable, "-c", write, name, code] for name, code in (("one", "0"), ("two", "3"))]
    wrong = cluster.wait(cluster.submit(commands, tmp_path / "logs", "local"))
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["done", "done"]
    assert len(wrong) == 1
    assert "exit code 3" in wrong[0]


def test_options_are_passed_on():
    assert cluster.parse_options("slurm_partition=gpu, timeout_min=240", "slurm") == {
        "slurm_partition": "gpu",
        "timeout_min": 240,
    }
    assert cluster.parse_options("", "local")["timeout_min"] > 24 * 60


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("slurm", "", "timeout_min=240"),
        ("slurm", "timeout_min=" + "9" * 400, "timeout_min has 400 digits"),
        ("slurm", "timeout_min", "'timeout_min' is not written name=value"),
        ("local", "partition_of_slurm=gpu", "partition_of_slurm"),
        ("slurm", "timeout_min=5", "could not be handed to 'slurm'"),  # there is none here
    ],
)
def test_what_cannot_work_gets_a_sentence(tmp_path, monkeypatch, name, options, says):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=says):
        cluster.submit([["true"]], tmp_path / "logs", name, options)


def test_a_task_takes_its_trials_by_name(tmp_path, tiny):
    trials = list_trials(parse(tiny), lambda add: [add(**{"train.seed": seed}) for seed in range(3)], tmp_path)
    assert [trial.name for trial in select_trials(trials, ["seed=2", "seed=0"])] == ["seed=0", "seed=2"]
    with pytest.raises(UserError, match="no trial 'seed=7'"):
        select_trials(trials, ["seed=7"])


@pytest.mark.slow
def test_a_sweep_on_the_local_cluster(tmp_path, cache):
    """The real command: a task for each group; the second time, nothing is left."""
    config = tmp_path / "small.py"
    config.write_text(
        "from configs import rendered\n"
        "def get_config(arg=None):\n    return rendered.get_config('tiny')\n"
        "def sweep(add):\n    for size in (4, 8):\n        add(**{'model.bottleneck': size})\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "launch.py", f"--config={config}", f"--config.data.cache_dir={cache}", "--sweep"]
    command += [f"--workdir={tmp_path / 'run'}", "--cpu_devices=1", "--sweep_cluster=local"]
    first = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 tasks" in first.stdout
    for size in (4, 8):
        assert read_metrics(tmp_path / "run" / "sweep" / f"bottleneck={size}")[-1]["kind"] == "end"
    second = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "Nothing is left to do" in second.stdout
