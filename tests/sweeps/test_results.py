import dataclasses
import datetime
import json

import pytest

from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, QUICK
from infoae_jax.runs.folder import lock
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.sweeps.results import (
    FAILURE_FILE,
    TrialResult,
    check_folders,
    find_sweep,
    format_duration,
    group_by_setting,
    list_states,
    rank_settings,
    read_trial,
    read_trials,
    write_results,
)
from infoae_jax.sweeps.trials import trial_name


@pytest.fixture
def finish(train, measure):
    """Makes the folders of trials that are trained and evaluated."""

    def make(trials, protocol=QUICK):
        for trial in trials:
            train(trial.config, trial.folder)
            measure(trial.folder, protocol)

    return make


def fail(trial, state, reason):
    trial.folder.mkdir(parents=True)
    record = {"state": state, "reason": reason, "values": trial.values}
    (trial.folder / FAILURE_FILE).write_text(json.dumps(record))


def test_a_trial_goes_from_new_to_finished(grid, train, measure):
    trial = grid[0]
    assert read_trial(trial.folder) == TrialResult(trial.name, "new", {})
    train(trial.config, trial.folder)
    path = trial.folder / "metrics.jsonl"
    written = path.read_text()
    path.write_text(written.splitlines(keepends=True)[0])
    assert (read_trial(trial.folder).state, read_trial(trial.folder).training_s) == ("interrupted", None)
    path.write_text(written)
    assert read_trial(trial.folder).state == "trained"
    measure(trial.folder)
    result = read_trial(trial.folder)
    assert (result.state, result.step, result.values) == ("finished", 8, trial.values)
    assert (result.protocol, result.figures["probe_accuracy"], result.chance) == ("quick", 0.8123, 0.1135)
    assert (result.untrusted, result.evaluation_s, result.bottleneck) == (("transfer",), 60.0, 4)
    (trial.folder / FAILURE_FILE).write_text(json.dumps({"state": "failed", "reason": "no figures", "values": {}}))
    result = read_trial(trial.folder)
    assert (result.state, result.reason, result.figures) == ("failed", "no figures", {})


@pytest.mark.parametrize(
    ("kinds", "seconds"),
    [
        (["start", "end"], 10),
        (["start", "stop", "start", "end"], 20),  # not the time in between
        (["start", "start", "end"], None),  # killed, nobody knows when
        (["start", "stop", "start"], None),
        ([], None),
    ],
)
def test_training_takes_the_time_of_its_processes(grid, train, kinds, seconds):
    train(grid[0].config, grid[0].folder)
    (grid[0].folder / "metrics.jsonl").unlink()
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for i, kind in enumerate(kinds):
        time = (begin + datetime.timedelta(seconds=10 * i)).isoformat()
        append_metrics(grid[0].folder, kind, step=i, time=time, device="cpu", environment={})
        append_metrics(grid[0].folder, "autoencoder_step", step=i)
    assert read_trial(grid[0].folder).training_s == seconds


def test_a_sweep_is_found_from_its_folder_or_the_one_around_it(grid, finish, tmp_path):
    with pytest.raises(UserError, match=r"holds no trials of a sweep. Start one: python launch\.py"):
        find_sweep(tmp_path)
    finish(grid[:3])
    fail(grid[4], "diverged", "lambda too large")
    folder, results = find_sweep(tmp_path)
    assert find_sweep(folder) == (folder, results)
    assert folder == tmp_path / "sweep"
    assert [result.name for result in results] == sorted(trial.name for trial in (*grid[:3], grid[4]))
    write_results(folder, results)
    lines = [json.loads(text) for text in (folder / "sweep.jsonl").read_text().splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == [(r.name, r.state) for r in results]


def test_trials_are_sorted_by_number_and_not_by_text(tiny_config, grid):
    for i, values in enumerate([{"train.seed": 10}, {"train.seed": 9}, {"model.latent": "ball"}]):
        fail(dataclasses.replace(grid[0], folder=grid[0].folder.parent / f"{i}", values=values), "failed", "why")
    assert [list(r.values.values()) for r in read_trials(grid[0].folder.parent)] == [["ball"], [9], [10]]


def test_folders_of_another_sweep_are_refused(grid, train):
    train(grid[1].config, grid[1].folder)
    check_folders(grid)
    epochs = dataclasses.replace(grid[1].config, train=dataclasses.replace(grid[1].config.train, epochs=7))
    with pytest.raises(UserError, match=r"(?s)belongs to another experiment.*train\.epochs: 2 -> 7"):
        check_folders([dataclasses.replace(grid[1], config=epochs)])


def test_listing_tells_states_groups_and_time(grid, finish):
    assert "the time is unknown" in list_states(grid)
    finish([grid[0], grid[2]])
    fail(grid[1], "diverged", "too\nmuch")
    text = list_states(grid)
    assert "8 trials in 2 groups" in text
    assert "2 finished, 1 diverged, 5 new" in text
    assert "5 trials left: about 5 min one after the other, judging by the same runs here." in text
    assert "leakage 81.2%, MSE 0.0123 (quick)" in text
    assert any(line.endswith("too") for line in text.splitlines())
    assert list_states(grid[:1]).startswith(f"{grid[0].folder.parent}: 1 trial in 1 group\n")
    assert list_states(grid[:2]).endswith("Nothing is left to do.")
    with lock(grid[3].folder):
        assert "1 busy" in list_states(grid)
    (only,) = (t for t in (grid[0], grid[2]) if t.config.model.bottleneck == 8)
    (only.folder / "evaluation_quick.json").unlink()
    (only.folder / "metrics.jsonl").unlink()
    assert "judging by similar runs here" in list_states(grid)
    append_metrics(only.folder, "autoencoder_step", step=3)
    assert "at step 3" in list_states(grid)


@pytest.mark.parametrize(("seconds", "text"), [(45.2, "45 s"), (720, "12 min"), (7500, "2 h 5 min")])
def test_durations_in_words(seconds, text):
    assert format_duration(seconds) == text


def result(lam, seed, leakage, mse):
    values = {"train.lambda_adv": lam, "train.seed": seed}
    figures = {"probe_accuracy": leakage, "mse": mse}
    return TrialResult(trial_name(values), "finished", values, protocol="quick", figures=figures)


def test_recommended_is_the_lowest_leakage_among_those_near_the_best_error():
    settings = group_by_setting(
        [
            *(result(0.0, 0, 0.9, 0.0100), result(0.0, 1, 0.8, 0.0102)),
            *(result(0.1, 0, 0.3, 0.0105), result(0.1, 1, 0.5, 0.0107)),
            *(result(0.2, 0, 0.2, 0.0109), result(0.2, 1, 0.2, 0.0125)),  # one of them is near, the mean is not
            result(0.3, 0, 0.11, 0.05),
            result(0.4, 0, None, 0.001),
        ]
    )
    assert [s.values for s in settings] == [{"train.lambda_adv": lam} for lam in (0.0, 0.1, 0.2, 0.3)]
    assert settings[0].name == "lambda_adv=0"
    assert settings[0].mean("mse") == pytest.approx(0.0101)
    assert settings[0].mean("frechet_distance") is None
    assert settings[0].spread("probe_accuracy") == pytest.approx(0.1 / 2**0.5)
    assert settings[3].spread("probe_accuracy") == 0
    assert [s.values["train.lambda_adv"] for s in rank_settings(settings)] == [0.1, 0.0, 0.2, 0.3]
    assert rank_settings(settings, 10)[0].values["train.lambda_adv"] == 0.3
    assert rank_settings([]) == []


def test_figures_of_one_protocol_are_compared_whatever_else_was_measured(grid, train, measure, tmp_path):
    def evaluate(trial, protocol, leakage):
        figures = {"leakage": {"probe_accuracy": leakage, "chance": 0.1}, "reconstruction": {"mse": 0.01}}
        measure(trial.folder, protocol, figures=figures)

    for trial, leakage in zip(grid[:3], (0.5, 0.6, 0.7), strict=True):
        train(trial.config, trial.folder)
        evaluate(trial, QUICK, leakage)
    evaluate(grid[2], FULL, 0.1)
    results = {r.name: r for r in read_trials(tmp_path / "sweep")}
    assert [results[trial.name].figures["probe_accuracy"] for trial in grid[:3]] == [0.5, 0.6, 0.7]
    assert [results[trial.name].full.get("probe_accuracy") for trial in grid[:3]] == [None, None, 0.1]
    best = rank_settings(group_by_setting(list(results.values())))[0]
    assert (best.trials[0].name, best.full("probe_accuracy")) == (grid[0].name, None)
    assert read_trial(grid[2].folder).figures["probe_accuracy"] == 0.1
    for trial in grid[:2]:
        evaluate(trial, FULL, 0.2)
    assert {(r.protocol, r.full == {}) for r in read_trials(tmp_path / "sweep")} == {("full", True)}
    (grid[0].folder / "evaluation.json").unlink()
    (grid[2].folder / "evaluation_quick.json").unlink()
    results = read_trials(tmp_path / "sweep")  # two of each
    assert sum(r.is_comparable for r in results) == 2
    assert {r.state for r in results} == {"finished"}
