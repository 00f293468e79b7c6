"""Sweeps whose trainings are pretended, and a real one."""

import dataclasses
import json

import numpy as np
import pytest

from infoae_jax.config import parse
from infoae_jax.errors import BusyError, DivergedError, UserError
from infoae_jax.evaluation.record import FULL
from infoae_jax.runs.folder import is_locked, lock, open_run, read_info
from infoae_jax.sweeps import runner
from infoae_jax.sweeps.results import list_states, read_trial, read_trials, write_results
from infoae_jax.sweeps.runner import SweepOutcome, run_sweep
from infoae_jax.sweeps.trials import group_trials, list_trials
from infoae_jax.training.fit import Result
from infoae_jax.training.state import TrainState

STOPPED = Result(TrainState(np.int32(8), {}, {}, {}), finished=False, stopped=True)


def names(trials):
    return [trial.name for trial in trials]


def failing(monkeypatch, outcomes):
    """Lets the trainings of these trials end with that result or error."""
    fit = runner.fit

    def instead(config, folder):
        outcome = outcomes.get(folder.name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or fit(config, folder)

    monkeypatch.setattr(runner, "fit", instead)


def states(folder):
    return {result.name: result.state for result in read_trials(folder)}


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
    assert run_sweep(grid, say=said.append) == SweepOutcome(busy=[c], failed=[a, b])
    assert calls == others
    found = {result.name: result for result in read_trials(tmp_path / "sweep")}
    assert (found[a].state, found[a].reason) == ("diverged", "lambda too large")
    assert (found[b].state, found[b].reason) == ("failed", "RuntimeError: out of memory")
    assert found[b].values == grid[1].values
    assert c not in found
    assert f"{c} is left out: another process is training it." in said
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

    def outcome(config, folder):
        try:
            return runner.fit(config, folder)
        except Exception as error:
            return error

    def fit_group(configs, folders):
        done.append([folder.name for folder in folders])
        return list(map(outcome, configs, folders))

    monkeypatch.setattr(runner, "is_cpu", lambda: False)
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
    failing(monkeypatch, {a: STOPPED, b: DivergedError("lambda too large"), c: BusyError("someone")})
    assert run_sweep(grid) == SweepOutcome(stopped=True, failed=[b])
    assert states(grid[0].folder.parent)[b] == "diverged"


@pytest.mark.parametrize("finished", [False, True])
def test_a_signal_ends_the_sweep_even_in_the_last_step_of_a_trial(grid, calls, monkeypatch, finished):
    failing(monkeypatch, {grid[1].name: dataclasses.replace(STOPPED, finished=finished)})
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


def test_a_group_that_fails_as_a_whole_is_recorded_for_all(grid, calls, groups, monkeypatch):
    def fit_group(configs, folders):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(runner, "fit_group", fit_group)
    first = group_trials(grid)[0]
    assert len(first) > 2
    assert run_sweep(grid).failed[: len(first)] == names(first)
    for trial in first:
        assert read_trial(trial.folder).reason == "RuntimeError: out of memory"


def test_a_group_too_large_for_the_memory_is_trained_in_smaller_ones(grid, calls, groups, monkeypatch):
    together, asked = runner.fit_group, []

    def fit_group(configs, folders):
        asked.append(len(folders))
        if len(folders) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.")
        return together(configs, folders)

    monkeypatch.setattr(runner, "fit_group", fit_group)
    assert run_sweep(grid) == SweepOutcome()
    assert asked[:2] == [4, 2]
    assert sorted(calls) == sorted(names(grid))  # each once
    assert [len(group) for group in groups] == [2] * 4
    assert set(states(grid[0].folder.parent).values()) == {"finished"}


def test_a_trial_too_large_for_the_memory_by_itself_is_recorded(grid, calls, groups, monkeypatch):
    exhausted = RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    def fit_group(configs, folders):
        raise exhausted

    monkeypatch.setattr(runner, "fit_group", fit_group)
    failing(monkeypatch, {grid[0].name: exhausted})
    assert run_sweep(grid).failed == names(grid[:1])
    assert read_trial(grid[0].folder).reason == "RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    assert sorted(calls) == sorted(names(grid[1:]))


def test_a_full_disk_ends_the_sweep_with_advice(grid, calls, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.results, "write_results", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left.* Make room"):
        run_sweep(grid)
    assert calls == names(grid[:1])


def test_data_that_cannot_be_loaded_is_no_failure_of_trials(grid, calls, tmp_path):
    data = dataclasses.replace(grid[0].config.data, name="folder", channels=3, dir=str(tmp_path / "nowhere"))
    trial = dataclasses.replace(grid[0], config=dataclasses.replace(grid[0].config, data=data))
    with pytest.raises(UserError, match="nowhere"):
        run_sweep([trial])
    assert not trial.folder.exists()


@pytest.mark.usefixtures("one_device")
def test_really_trained_and_summed_up_again_from_the_folders(tiny, tmp_path, measure, monkeypatch):
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
