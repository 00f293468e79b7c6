import pytest

from infoae_jax.cli.main import main
from infoae_jax.reports.page import GENERATOR
from tests.html_page import Page
from tests.report_folders import grid, make_run, make_sweep


def test_page_about_runs_is_written_and_replaces_nothing_but_a_page(tmp_path, tiny_config, capsys):
    run = make_run(tmp_path / "run", tiny_config)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    first = (run / "report.html").read_text()
    assert GENERATOR in first
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == first
    own = tmp_path / "own.html"
    own.write_text("mine")
    assert main(["report", str(run), f"--out={own}"]) == 2
    assert own.read_text() == "mine"
    assert "own.html' exists and is not part of a report. Choose another --out." in capsys.readouterr().err


def test_page_about_a_sweep_by_another_rule(tmp_path, tiny_config, capsys):
    folder = make_sweep(tmp_path / "mine" / "sweep", tiny_config, *grid(seeds=(0,)))
    assert main(["report", "--sweep", str(folder.parent), "--within=300"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = Page((folder / "report.html").read_text())
    assert "bottleneck=8,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "at most 300% above" in page.text


def test_runs_and_sweeps_are_not_mistaken_for_each_other(tmp_path, tiny_config, capsys):
    folder = make_sweep(tmp_path / "mine" / "sweep", tiny_config, ({}, "it ran away"))
    assert main(["report", "--sweep", str(tmp_path)]) == 2
    assert "holds no trials of a sweep" in capsys.readouterr().err
    for named in (folder.parent, folder):
        assert main(["report", str(named)]) == 2
        assert f"infoae report --sweep {folder.parent}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["RUN", "--within=5"], "--within is for sweeps"),
        (["--sweep", "RUN", "RUN", "--out=x.html"], "--out names one page"),
        (["nothing"], "'nothing' is not a run folder"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(str(tmp_path) if word == "RUN" else word for word in words)]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "says"),
    [("much", "invalid percentage value: 'much'")]
    + [(value, f"{value!r} is not a percentage of at least 0") for value in ("-1", "inf", "nan%")],
)
def test_a_percentage_is_a_number_of_at_least_0(capsys, value, says):
    with pytest.raises(SystemExit):
        main(["report", "--sweep", "runs/mnist", f"--within={value}"])
    assert says in capsys.readouterr().err
