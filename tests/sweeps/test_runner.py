"""Sweeps with a training that only pretends, one real one, and (slow) the real command, whole and killed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import base
from infoae_jax.cli import sweep as sweep_module
from infoae_jax.cli.sweep import run_sweep_command, sweep_requested
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import BusyError, DivergedError, UserError
from infoae_jax.evaluation.record import FULL, QUICK, file_name
from infoae_jax.runs.folder import RunInfo, is_locked, lock, open_run, read_info
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import now
from infoae_jax.sweeps import runner
from infoae_jax.sweeps.results import (
    TrialResult,
    group_by_setting,
    list_states,
    rank_settings,
    read_trial,
    read_trials,
    write_results,
)
from infoae_jax.sweeps.runner import SweepOutcome, run_sweep, train_trial
from infoae_jax.sweeps.trials import Trial, group_trials, list_trials, trial_name
from infoae_jax.training.fit import Result
from infoae_jax.training.state import TrainState
from tests.records import RECORD

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
ROOT = Path(__file__).parents[2]
DONE = Result(TrainState(np.int32(8), {}, {}, {}), finished=True)


@pytest.fixture
def grid(tiny_config, tmp_path):
    return list_trials(tiny_config, lambda add: base.sweep_over(add, (0.0, 0.01), (4, 8), (0, 1)), tmp_path / "sweep")


def measure(folder, protocol, **_):
    """Pretends to evaluate."""
    cost = {**RECORD["cost"], "evaluation_s": 60.0}
    (folder / file_name(protocol)).write_text(json.dumps({**RECORD, "cost": cost}))


@pytest.fixture
def calls(monkeypatch):
    """Trials that were trained, in order; the training and the evaluation are pretended."""
    done = []

    def fit(config, folder):
        with lock(folder):
            done.append(folder.name)
            info = RunInfo(config, (32, 32, 3), tuple("0123456789"), 256, 64, "data")
            open_run(folder, info, "cpu")
            for kind in ("start", "end"):
                append_metrics(folder, kind, step=8, time=now())
        return DONE

    monkeypatch.setattr(runner, "fit", fit)
    monkeypatch.setattr(runner, "evaluate_run", measure)
    return done


def names(trials):
    return [trial.name for trial in trials]


def failing(monkeypatch, outcomes):
    """Trainings that end, for these trials, with that result or error."""
    fit = runner.fit

    def instead(config, folder):
        outcome = outcomes.get(folder.name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or fit(config, folder)

    monkeypatch.setattr(runner, "fit", instead)
    return fit


def states(folder):
    return {line.name: line.state for line in read_trials(folder)}


def test_runs_what_is_left_and_nothing_twice(grid, calls, tmp_path):
    assert run_sweep(grid[:2]) == SweepOutcome()
    assert calls == names(grid[:2])
    (grid[1].folder / "evaluation_quick.json").unlink()
    assert read_trial(grid[1].folder).state == "trained"
    assert run_sweep(grid) == SweepOutcome()
    assert calls == [*names(grid[:2]), *names(grid[1:])]  # the one without evaluation was looked at again
    assert set(states(tmp_path / "sweep").values()) == {"finished"}
    assert run_sweep(grid) == SweepOutcome()
    assert len(calls) == 9
    run_sweep(grid[:1], FULL)
    assert (grid[0].folder / "evaluation.json").exists()


def test_what_goes_wrong_is_recorded_and_the_others_go_on(grid, calls, tmp_path, monkeypatch):
    a, b, c, *others = names(grid)
    outcomes = {a: DivergedError("lambda too large"), b: RuntimeError("out of memory"), c: BusyError("someone")}
    failing(monkeypatch, outcomes)
    said = []
    report = run_sweep(grid, say=said.append)
    assert report == SweepOutcome(busy=[c], failed=[a, b])
    assert calls == others
    found = {line.name: line for line in read_trials(tmp_path / "sweep")}
    assert (found[a].state, found[a].reason) == ("diverged", "lambda too large")
    assert (found[b].state, found[b].reason) == ("failed", "RuntimeError: out of memory")
    assert found[b].values == grid[1].values
    assert c not in found
    assert any(f"{c} is busy" in line for line in said)
    outcomes.clear()
    assert run_sweep(grid) == SweepOutcome(failed=[a])  # it would diverge again
    assert calls == [*others, b, c]
    assert states(tmp_path / "sweep")[b] == "finished"


def test_a_failed_evaluation_is_recorded_too(grid, calls, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no figures")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate_run", broken)
        assert run_sweep(grid[:1]).failed == [grid[0].name]
    assert read_trial(grid[0].folder).reason == "ValueError: no figures"
    assert run_sweep(grid[:1]).failed == []
    assert read_trial(grid[0].folder).state == "finished"


@pytest.fixture
def groups(calls, monkeypatch):
    """Trials that were trained together, in order; as if there were accelerators."""
    done = []

    def fit_group(configs, folders):
        done.append([folder.name for folder in folders])
        return [train_trial(Trial(f.name, c, f)) for c, f in zip(configs, folders, strict=True)]

    monkeypatch.setattr(runner, "_on_accelerators", lambda: True)
    monkeypatch.setattr(runner, "fit_group", fit_group)
    return done


def test_trained_trials_are_evaluated_anew_and_the_others_trained_in_their_groups(grid, calls, groups):
    run_sweep(grid[:1])
    assert run_sweep(grid, FULL) == SweepOutcome()
    assert all((trial.folder / "evaluation.json").exists() for trial in grid)
    of_size = [[t.name for t in group] for group in group_trials(grid[1:])]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, of_size))


def test_what_goes_wrong_in_a_group_is_recorded_even_if_a_signal_ends_the_sweep(grid, calls, groups, monkeypatch):
    a, b, c, *_ = names(group_trials(grid)[0])
    stopped = Result(DONE.state, False, stopped=True)
    failing(monkeypatch, {a: stopped, b: DivergedError("lambda too large"), c: BusyError("someone")})
    assert run_sweep(grid) == SweepOutcome(stopped=True, failed=[b])
    assert states(grid[0].folder.parent)[b] == "diverged"


@pytest.mark.parametrize("finished", [False, True])
def test_a_signal_ends_the_sweep_even_in_the_last_step_of_a_trial(grid, calls, monkeypatch, finished):
    failing(monkeypatch, {grid[1].name: Result(DONE.state, finished, stopped=True)})
    assert run_sweep(grid).stopped
    assert calls == names(grid[:1])


def test_a_trial_that_another_process_trains_is_left_to_it(grid, tmp_path):
    with lock(grid[0].folder):
        assert run_sweep(grid[:1]).busy == [grid[0].name]
        assert is_locked(grid[0].folder)
        assert "busy" in list_states(grid)
    assert not is_locked(grid[0].folder)


def test_folder_of_another_sweep_is_refused_before_anything_is_trained(grid, calls):
    run_sweep(grid[-1:])
    train = dataclasses.replace(grid[-1].config.train, epochs=7)
    changed = [*grid[:-1], dataclasses.replace(grid[-1], config=dataclasses.replace(grid[-1].config, train=train))]
    with pytest.raises(UserError, match="train.epochs: 2 -> 7"):
        run_sweep(changed)
    assert len(calls) == 1


def test_data_that_cannot_be_loaded_is_no_failure_of_trials(grid, calls, tmp_path):
    data = dataclasses.replace(grid[0].config.data, name="folder", channels=3, dir=str(tmp_path / "nowhere"))
    trial = dataclasses.replace(grid[0], config=dataclasses.replace(grid[0].config, data=data))
    with pytest.raises(UserError, match="nowhere"):
        run_sweep([trial])
    assert not trial.folder.exists()


def test_listing_tells_states_groups_and_time(grid, calls, monkeypatch):
    assert "the time is unknown" in list_states(grid)
    failing(monkeypatch, {grid[1].name: DivergedError("too\nmuch")})
    run_sweep(grid[:3])
    text = list_states(grid)
    assert "8 trials in 2 groups" in text
    assert "2 finished, 1 diverged, 5 new" in text
    assert "5 trials left: about 5 min one after the other, as such runs took here." in text
    assert "leakage 81.2%, MSE 0.0123" in text
    assert list_states(grid[:2]).endswith("Nothing is left to do.")
    only = [trial for trial in grid if trial.config.model.bottleneck == 8]
    (only[0].folder / "evaluation_quick.json").unlink()
    (only[0].folder / "metrics.jsonl").unlink()
    assert "like runs of other sizes took here" in list_states(grid)


def line(lam, seed, leakage, mse, protocol="quick", state="finished"):
    values = {"train.lambda_adv": lam, "train.seed": seed}
    figures = {"leakage": leakage, "mse": mse}
    return TrialResult(trial_name(values), state, values, protocol=protocol, figures=figures)


def test_recommended_is_the_lowest_leakage_among_those_near_the_best_error():
    lines = [
        *(line(0.0, 0, 0.9, 0.0100), line(0.0, 1, 0.8, 0.0102)),
        *(line(0.1, 0, 0.3, 0.0105), line(0.1, 1, 0.5, 0.0107)),
        *(line(0.2, 0, 0.2, 0.0109), line(0.2, 1, 0.2, 0.0125)),  # one of them is near, the mean is not
        line(0.3, 0, 0.11, 0.05),
        line(0.4, 0, None, 0.001),
    ]
    found = group_by_setting(lines)
    assert [s.values for s in found] == [{"train.lambda_adv": lam} for lam in (0.0, 0.1, 0.2, 0.3)]
    assert found[0].mean("mse") == pytest.approx(0.0101)
    assert found[0].spread("leakage") == pytest.approx(0.1 / 2**0.5)
    assert found[3].spread("leakage") == 0
    assert [s.values["train.lambda_adv"] for s in rank_settings(found)] == [0.1, 0.0, 0.2, 0.3]
    assert rank_settings(found, 10)[0].values["train.lambda_adv"] == 0.3
    assert rank_settings([]) == []


def evaluated(folder, leakage, protocol):
    figures = {"leakage": {"probe_accuracy": leakage, "chance": 0.1}, "reconstruction": {"mse": 0.01}}
    record = {**RECORD, "figures": figures, "protocol": dataclasses.asdict(protocol), "cost": {"evaluation_s": 1.0}}
    (folder / file_name(protocol)).write_text(json.dumps(record))


def test_figures_of_one_protocol_are_compared_whatever_else_was_measured(grid, calls, tmp_path):
    run_sweep(grid[:3])
    for trial, leakage in zip(grid[:3], (0.5, 0.6, 0.7), strict=True):
        evaluated(trial.folder, leakage, QUICK)
    evaluated(grid[2].folder, 0.1, FULL)
    lines = {line.name: line for line in read_trials(tmp_path / "sweep")}
    assert [lines[trial.name].figures["leakage"] for trial in grid[:3]] == [0.5, 0.6, 0.7]
    assert [lines[trial.name].full.get("leakage") for trial in grid[:3]] == [None, None, 0.1]
    best = rank_settings(group_by_setting(list(lines.values())))[0]
    assert (best.lines[0].name, best.full("leakage")) == (grid[0].name, None)
    assert read_trial(grid[2].folder).figures["leakage"] == 0.1
    for trial in grid[:2]:
        evaluated(trial.folder, 0.2, FULL)
    lines = read_trials(tmp_path / "sweep")
    assert {(line.protocol, line.full == {}) for line in lines} == {("full", True)}
    (grid[0].folder / "evaluation.json").unlink()
    (grid[2].folder / "evaluation_quick.json").unlink()
    lines = read_trials(tmp_path / "sweep")  # two of each
    assert sum(line.compared for line in lines) == 2
    assert {line.state for line in lines} == {"finished"}


@pytest.mark.usefixtures("one_device")
def test_really_trained_and_summed_up_again_from_the_folders(tiny, tmp_path, monkeypatch):
    tiny.log.sample_epochs = ()
    folder = tmp_path / "sweep"
    trials = list_trials(parse(tiny), lambda add: add(**{"train.lambda_adv": 0.01}), folder)
    monkeypatch.setattr(runner, "evaluate_run", measure)
    assert run_sweep(trials) == SweepOutcome()
    written = (folder / "sweep.jsonl").read_bytes()
    first = (trials[0].folder / "metrics.jsonl").read_bytes()
    assert run_sweep(trials) == SweepOutcome()
    assert (trials[0].folder / "metrics.jsonl").read_bytes() == first
    (folder / "sweep.jsonl").unlink()
    write_results(folder, read_trials(folder))
    assert (folder / "sweep.jsonl").read_bytes() == written
    lines = [json.loads(text) for text in written.splitlines()]
    assert [(line["values"], line["step"]) for line in lines] == [({"train.lambda_adv": 0.01}, 8)]
    # The workdir itself may become a run, beside its sweep.
    open_run(tmp_path, read_info(trials[0].folder), "cpu")


def command(tmp_path, cache, *args):
    return [
        *(sys.executable, "launch.py", "--config=configs/rendered.py:tiny", f"--config.data.cache_dir={cache}"),
        *(f"--workdir={tmp_path / 'run'}", *args),
    ]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--sweep_list", "--sweep_filter=seed=0,bottleneck=16|64"], 0, "8 trials in 2 groups"),
        (["--sweep", "--sweep_filter=bottleneck=17"], 2, "bottleneck is one of: 16, 32, 64"),
        (["--sweep", "--config.train.lambda_adv=0.1"], 2, "Choose among these with --sweep_filter=lambda_adv=..."),
        (["--sweep_list", "--sweep_filter=seed=5"], 2, "seed is one of: 0, 1, 2"),
        (["--sweep_cluster=slurm"], 2, "--sweep_cluster is of a sweep: add --sweep"),
        (["--sweep_list", "--coordinator=auto"], 2, "does not run over several hosts"),
    ],
)
def test_command_line(tmp_path, cache, args, code, says):
    done = subprocess.run(command(tmp_path, cache, *args), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def test_listing_says_how_much_memory_groups_need_where_the_images_are_at_hand(tiny_config, grid, tmp_path):
    load_splits(tiny_config.data)
    assert re.findall(r"group (.): about [\d.]+ GiB", sweep_module._memory(grid)) == ["1", "2"]
    elsewhere = [dataclasses.replace(tiny_config.data, cache_dir=str(tmp_path / "none"))]
    elsewhere += [dataclasses.replace(tiny_config.data, name="folder", dir=str(tmp_path / "none"))]
    for changed in elsewhere:
        trial = dataclasses.replace(grid[0], config=dataclasses.replace(tiny_config, data=changed))
        assert "once a training has put the images in the cache" in sweep_module._memory([trial])


def test_options_of_a_sweep_do_nothing_without_one():
    with flagsaver.flagsaver(sweep_filter="seed=0"), pytest.raises(UserError, match="--sweep_filter is of a sweep"):
        sweep_requested()
    with flagsaver.flagsaver(sweep_only=["seed=0"]), pytest.raises(UserError, match="--sweep_only is of a sweep"):
        sweep_requested()


def test_trials_that_are_measured_in_different_ways_are_refused(tiny_config, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def sweep(add):\n    for end in ('quick', 'full'):\n        add(**{'evaluate.at_end': end})\n")
    with pytest.raises(UserError, match="sets evaluate.at_end to 'quick' and 'full'"):
        run_sweep_command(tiny_config, own, tmp_path / "run", [], lambda _: None)


def test_configuration_file_without_a_sweep(tmp_path, cache):
    (tmp_path / "own.py").write_text("from configs.rendered import get_config\n")
    args = command(tmp_path, cache, "--sweep")
    args[2] = f"--config={tmp_path / 'own.py'}"
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has no function sweep(add)" in done.stderr


@pytest.mark.slow
def test_three_by_three_takes_less_than_six_minutes(tmp_path, cache):
    begin = time.monotonic()
    args = ("--sweep", "--sweep_filter=seed=0,lambda_adv!=0.001")
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        command(tmp_path, cache, *args), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begin < 360
    lines = read_trials(tmp_path / "run" / "sweep")
    assert [line.state for line in lines] == ["finished"] * 9
    assert all(line.compared for line in lines)
    assert (tmp_path / "run" / "sweep" / "report.html").exists()


@pytest.mark.slow
def test_killed_and_started_again_repeats_one_checkpoint_interval_of_one_trial_at_most(tmp_path, cache):
    """And what a signal stops goes on as well. No step that was saved is taken again, no finished trial begun again."""
    args = ("--sweep", "--sweep_filter=seed=0,bottleneck=16,lambda_adv<0.004", "--config.log.every_steps=1")
    args += ("--config.checkpoint.every_steps=5", "--config.train.epochs=30")  # two trials, 120 steps each
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
        return max((line["step"] for line in read_metrics(trial, "step")), default=0)

    process = started(lambda: steps(trials[1]) >= 30)
    process.kill()
    process.communicate()
    reached = steps(trials[1])
    process = started(lambda: steps(trials[1]) >= reached + 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "Stopped, everything is saved. To go on: python launch.py" in out
    done = subprocess.run(
        command(tmp_path, cache, *args), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_metrics(trials[0], "start")) == 1
    starts = [line["step"] for line in read_metrics(trials[1], "start")]
    assert starts[0] == 0
    assert reached - 5 <= starts[1] <= reached + 1  # the interval is five
    assert starts[2] > starts[1]
    assert set(states(folder).values()) == {"finished"}
