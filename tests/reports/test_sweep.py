"""The page and the figures of sweeps whose folders are made up."""

import json
import re

import numpy as np
import pytest

from configs import rendered
from infoae_jax.cli.main import main
from infoae_jax.config import parse
from infoae_jax.devices import setup as device_setup
from infoae_jax.errors import UserError
from infoae_jax.evaluation import measure as measure_module
from infoae_jax.evaluation.table import HEADLINE, Reference, references
from infoae_jax.images.grid import encode_png
from infoae_jax.reports import tradeoff as tradeoff_module
from infoae_jax.reports.sweep import render_sweep_report, write_sweep_report
from infoae_jax.reports.tradeoff import arrange, tradeoff
from infoae_jax.runs.folder import RunInfo, open_run
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.sweeps.results import FAILURE_FILE, find_sweep, group_by_setting, read_trials
from infoae_jax.sweeps.trials import list_trials
from tests.html_page import Page
from tests.records import RECORD

INFO = ((32, 32, 3), tuple("0123456789"), 256, 64, "data")


@pytest.fixture(scope="module")
def config():
    return parse(rendered.get_config("tiny"))


def build(folder, config, *trials):
    """Makes the folders of a sweep: for each trial what it changes, leakage and MSE, or why it failed."""
    for values, found in trials:
        trial = list_trials(config, lambda add, v=values: add(**v), folder)[0]
        trial.folder.mkdir(parents=True)
        open_run(trial.folder, RunInfo(trial.config, *INFO), "cpu")
        (trial.folder / "samples").mkdir()
        (trial.folder / "samples" / "epoch_0002.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
        if isinstance(found, str):
            failure = {"state": "diverged", "reason": found, "values": values}
            (trial.folder / FAILURE_FILE).write_text(json.dumps(failure))
            continue
        append_metrics(trial.folder, "start", step=0, time="2020-01-01T00:00:00+00:00")
        append_metrics(trial.folder, "end", step=8, time="2020-01-01T00:05:00+00:00")
        figures = {"leakage": {"probe_accuracy": found[0], "chance": 0.1135}, "reconstruction": {"mse": found[1]}}
        record = {**RECORD, "figures": figures, "cost": {"evaluation_s": 1.0}}
        (trial.folder / "evaluation_quick.json").write_text(json.dumps(record))
    return folder


def test_full_figures_stand_beside_those_that_are_compared(make):
    folder = make(*grid(seeds=(0,)))
    record = json.loads((folder / "bottleneck=16,lambda_adv=0.01,seed=0" / "evaluation_quick.json").read_text())
    record["protocol"] = {"name": "full"}
    record["figures"]["leakage"]["probe_accuracy"] = 0.9876
    (folder / "bottleneck=16,lambda_adv=0.01,seed=0" / "evaluation.json").write_text(json.dumps(record))
    page = Page(render_sweep_report(*find_sweep(folder)))
    assert "bottleneck=16,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "Measured in full: leakage 98.8%, MSE 0.0105." in page.text
    assert "leakage in full" in page.text
    assert page.text.count("98.8%") == 2


@pytest.fixture
def make(tmp_path, config):
    return lambda *trials: build(tmp_path / "mine" / "sweep", config, *trials)


@pytest.fixture(scope="module")
def text(tmp_path_factory, config):
    """The page of `grid`."""
    folder = build(tmp_path_factory.mktemp("runs") / "mine" / "sweep", config, *grid())
    return render_sweep_report(*find_sweep(folder.parent))


def grid(seeds=(0, 1)):
    """The best by the rule is lambda 0.01 with bottleneck 16; the least leakage has bottleneck 8."""
    found = {(8, 0.0): (0.5, 0.03), (8, 0.01): (0.15, 0.04), (16, 0.0): (0.8, 0.0100), (16, 0.01): (0.3, 0.0105)}
    for (bottleneck, lam), (leakage, mse) in found.items():
        for seed in seeds:
            values = {"model.bottleneck": bottleneck, "train.lambda_adv": lam, "train.seed": seed}
            yield values, (leakage + 0.01 * seed, mse)
    for seed in seeds:
        yield {"model.bottleneck": 8, "train.lambda_adv": 0.1, "train.seed": seed}, "the <adversary> ran away"


def test_page_shows_all_trials_and_recommends_by_the_rule(text):
    page = Page(text)
    assert "10 trials begun: 8 finished, 2 diverged" in page.text
    assert "bottleneck=16,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "MSE is at most 10% above" in page.text
    assert page.text.count("★") == 3  # the note and both seeds
    assert page.text.count("the <adversary> ran away") == 2
    assert "bottleneck 8: λ 0 (leakage 50.5%" in page.text  # within its curve
    assert "transfer not to be trusted" in page.text
    assert [address[:23] for address in page.addresses] == ["data:image/webp;base64,"] * 8
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert all("w3.org" in address for address in re.findall(r"https?://[^\"' ]+", text))
    assert text.count('<tr data-trial="') == 8
    assert re.findall(r"data-first><figcaption><b>([^ ]*)</b>", text.replace("<wbr>", "")) == [
        "bottleneck=8,lambda_adv=0.01,seed=0",
        "bottleneck=16,lambda_adv=0,seed=0",
        "bottleneck=16,lambda_adv=0.01,seed=0",
    ]


def test_what_can_be_pointed_at_is_in_every_figure_and_follows_the_theme(text):
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2 + 2  # wide, narrow, and the figures that the records have
    for drawing in drawings:
        assert sorted(re.findall(r'data-pick="(\d)"', drawing)) == list("0123")
        assert not [colour for colour in tradeoff_module._SERIES if colour in drawing]
        assert "var(--s0)" in drawing
    assert all("diverged" in drawing for drawing in drawings[2:])
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', text)) <= {(n, "") for n in names} | {
        ("", n) for n in names
    }


def test_another_rule_and_figures_that_are_the_same_each_time_and_overwrite_nothing_of_the_users(make, capsys):
    folder = make(*grid(seeds=(0,)))
    assert main(["report", "--sweep", str(folder), "--within=300"]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    page = Page((folder / "report.html").read_text())
    assert "bottleneck=8,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "at most 300% above" in page.text
    written = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    names = [f"{name}.{kind}" for name in ("map_leakage", "map_mse", "tradeoff") for kind in ("png", "svg")]
    assert sorted(written) == names
    assert b"var(" not in written["tradeoff.svg"]
    assert written["tradeoff.png"].startswith(b"\x89PNG")
    (folder / "figures" / "map_mse.svg").write_text("mine")
    with pytest.raises(UserError, match=r"map_mse.svg' exists and is no figure"):
        write_sweep_report(folder, folder / "other.html", 3.0)
    assert (folder / "figures" / "map_mse.svg").read_text() == "mine"
    again = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert {name for name in names if again[name] != written[name]} == {"map_mse.svg"}
    (folder / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report.html' exists and is no report"):
        write_sweep_report(folder)
    assert (folder / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "along", "labels"),
    [
        ([{"model.bottleneck": 8}, {"model.bottleneck": 4}], "model.bottleneck", [""]),
        ([{"model.latent": "ball"}, {"model.latent": "sphere"}], None, ["latent ball", "latent sphere"]),
        ([{"train.epochs": 3, "train.seed": 1}], None, [""]),
        ([{}], None, [""]),
        (
            [
                {"train.lambda_adv": x, "alignment.lambda_adv": y, "model.latent": "ball"}
                for x in (0, 1)
                for y in (1, 2)
            ],
            "train.lambda_adv",
            ["alignment.lambda adv 1", "alignment.lambda adv 2"],
        ),
    ],
)
def test_any_sweep_can_be_drawn(make, changes, along, labels):
    folder = make(*[(values, (0.2 + 0.1 * i, 0.01)) for i, values in enumerate(changes)])
    arrangement = arrange(group_by_setting(read_trials(folder)))
    assert arrangement.along == along
    assert sorted(series.label for series in arrangement.series) == labels
    if along:
        values = [setting.values[along] for setting in arrangement.series[0].settings]
        assert values == sorted(values)
    if along is None:
        Page(render_sweep_report(folder, read_trials(folder)))


def test_before_anything_is_finished(make, tmp_path, capsys):
    folder = make(*[trial for trial in grid() if isinstance(trial[1], str)])
    page = Page(write_sweep_report(folder).read_text())
    assert "No trial is finished" in page.text
    assert "script" not in page.tags
    assert not (folder / "figures").exists()
    assert main(["evaluate", "--sweep", "--best=1", str(folder)]) == 2
    assert main(["report", "--sweep", str(tmp_path)]) == 2
    assert "holds no trials of a sweep" in capsys.readouterr().err
    for named in (folder.parent, folder):
        assert main(["report", str(named)]) == 2
        assert f"infoae report --sweep {folder.parent}\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["report"], ["evaluate"], ["evaluate", "--sweep"]])
def test_a_rule_without_anything_to_choose_is_refused(tmp_path, capsys, arguments):
    assert main([*arguments, str(tmp_path), "--within=5"]) == 2
    assert "--within " in capsys.readouterr().err


def test_points_within_the_frame_and_systems_beyond_it(make):
    folder = make(*grid(seeds=(0,)))
    settings = group_by_setting(read_trials(folder))
    numbers = {setting.name: i for i, setting in enumerate(settings)}
    near, far = Reference("near", 0.02, 0.4), Reference("far", 0.9, 0.2)
    figure = tradeoff(arrange(settings), numbers, None, [near, far, Reference("line", 0.03)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"near", "line", "chance 11.3%", "λ 0", "0.01"} <= set(texts)
    assert "beyond the frame →\nfar: MSE 0.9000, 20.0%" in texts
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    for setting in settings:
        assert left < setting.mean("mse") < right
        assert bottom < setting.mean("leakage") < top


def test_references_are_those_of_the_data_and_the_latents_size():
    assert [e.name for e in references("mnist", {8, 32})] == ["class means"]
    assert "Cycle-VAE" in [e.name for e in references("mnist", {16})]
    assert references("rendered", {16}) == []


def test_chief_figures_are_read_from_a_record():
    found = {figure.name: figure.of(RECORD) for figure in HEADLINE}
    assert found["leakage"] == 0.8123
    assert found["style"] == 0.91  # the mean of those that are defined
    assert found["frechet"] is None


def test_best_settings_are_evaluated_in_full_with_all_their_seeds(make, monkeypatch, capsys):
    folder = make(*grid())
    done = []

    def measure(run, protocol, *_):
        done.append((run.name, protocol.name))
        return {**RECORD, "cost": {**RECORD["cost"], "evaluation_s": 1.0}}

    monkeypatch.setattr(measure_module, "evaluate_run", measure)
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)  # too late in this process
    assert main(["evaluate", "--sweep", str(folder.parent), "--best", "2"]) == 0
    settings = ("bottleneck=16,lambda_adv=0.01", "bottleneck=16,lambda_adv=0")
    assert done == [(f"{setting},seed={seed}", "full") for setting in settings for seed in (0, 1)]
    done.clear()
    assert main(["evaluate", "--sweep", str(folder), "--quick"]) == 0
    assert len(done) == 8
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", "--sweep", str(folder), "--best", "0"])
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err
