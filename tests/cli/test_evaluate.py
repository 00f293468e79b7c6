import tempfile

import pytest

from infoae_jax.cli.main import main
from infoae_jax.devices import setup as device_setup
from infoae_jax.evaluation import measure
from tests.records import RECORD
from tests.report_folders import grid, make_run, make_sweep


@pytest.fixture
def measured(monkeypatch):
    """What the command measures, as (name of the run, protocol, further arguments); nothing is computed."""
    found = []

    def evaluate_run(run, protocol, *others, groups, out, show):
        found.append((run.name, protocol.name, *others, *filter(None, [groups, out])))
        show(RECORD)
        return RECORD

    monkeypatch.setattr(measure, "evaluate_run", evaluate_run)
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)  # too late in this process
    return found


def test_runs_are_measured_and_their_tables_printed(tmp_path, tiny_config, measured, capsys):
    one, two = (make_run(tmp_path / name, tiny_config, evaluated=False) for name in ("one", "two"))
    assert main(["evaluate", str(one), str(two), "--quick", "--step=8", "--data_dir=there"]) == 0
    assert measured == [("one", "quick", 8, "there"), ("two", "quick", 8, "there")]
    printed = capsys.readouterr().out
    assert "81.2%" in printed
    assert f"{one / 'evaluation_quick.json'}  (0 s)\n" in printed
    assert main(["evaluate", str(one)]) == 0
    assert measured[2:] == [("one", "full", None, None)]
    assert f"{one / 'evaluation.json'}  (0 s)\n" in capsys.readouterr().out


def test_nothing_is_measured_if_one_run_is_missing(tmp_path, tiny_config, measured, capsys):
    run = make_run(tmp_path / "run", tiny_config, evaluated=False)
    assert main(["evaluate", str(run), str(tmp_path / "nothing")]) == 2
    assert "nothing' is not a run folder" in capsys.readouterr().err
    assert measured == []


def test_best_settings_are_measured_in_full_with_all_their_seeds(tmp_path, tiny_config, measured, capsys):
    folder = make_sweep(tmp_path / "mine" / "sweep", tiny_config, *grid())
    assert main(["evaluate", "--sweep", str(folder.parent), "--best", "2"]) == 0
    settings = ("bottleneck=16,lambda_adv=0.01", "bottleneck=16,lambda_adv=0")
    assert measured == [(f"{setting},seed={seed}", "full", None, None) for setting in settings for seed in (0, 1)]
    measured.clear()
    assert main(["evaluate", "--sweep", str(folder.parent), "--best=1", "--within=300"]) == 0
    assert [name for name, *_ in measured] == [f"bottleneck=8,lambda_adv=0.01,seed={seed}" for seed in (0, 1)]
    measured.clear()
    assert main(["evaluate", "--sweep", str(folder), "--quick"]) == 0
    assert len(measured) == 8
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", "--sweep", str(folder), "--best", "0"])
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err


def test_a_sweep_without_finished_trials_has_no_best(tmp_path, tiny_config, capsys):
    folder = make_sweep(tmp_path / "mine" / "sweep", tiny_config, ({}, "it ran away"))
    assert main(["evaluate", "--sweep", "--best=1", str(folder)]) == 2
    assert "no trial that is finished and evaluated" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", [[], ["--sweep"]])
def test_a_rule_without_anything_to_choose_is_refused(tmp_path, capsys, sweep):
    assert main(["evaluate", *sweep, str(tmp_path), "--within=5"]) == 2
    assert "Add --best N" in capsys.readouterr().err


def test_the_result_of_a_single_run_can_go_elsewhere(tmp_path, tiny_config, measured, capsys):
    one, two = (make_run(tmp_path / name, tiny_config, evaluated=False) for name in ("one", "two"))
    for given, out in ((tmp_path, tmp_path / "evaluation.json"), (tmp_path / "x.json", tmp_path / "x.json")):
        assert main(["evaluate", str(one), f"--out={given}"]) == 0
        assert measured.pop() == ("one", "full", None, None, given)
        assert f"{out}  (0 s)\n" in capsys.readouterr().out
    for words in (["evaluate", str(one), str(two)], ["evaluate", "--sweep", str(one)]):
        assert main([*words, f"--out={tmp_path}"]) == 2
        assert "--out is for the result of a single run" in capsys.readouterr().err
    assert measured == []


def test_nothing_is_measured_where_nothing_can_be_written(tmp_path, tiny_config, measured, capsys, monkeypatch):
    one = make_run(tmp_path / "one", tiny_config, evaluated=False)
    (tmp_path / "mine.json").write_text("mine")
    for name, says in (("mine.json", "exists"), ("nowhere/x.json", "cannot be written to")):
        assert main(["evaluate", str(one), f"--out={tmp_path / name}"]) == 2
        assert says in capsys.readouterr().err

    def fail(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    assert main(["evaluate", str(one)]) == 2
    assert "cannot be written to (Read-only file system). Say where else" in capsys.readouterr().err
    assert measured == []


def test_cpu_devices_are_bounded(tmp_path, tiny_config, capsys):
    one = make_run(tmp_path / "one", tiny_config, evaluated=False)
    for count in (257, 10**400):
        assert main(["evaluate", str(one), f"--cpu_devices={count}"]) == 2
        assert "--cpu_devices is " in capsys.readouterr().err
