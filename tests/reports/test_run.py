import json
import shutil

import numpy as np
import pytest

from infoae_jax.cli.main import main
from infoae_jax.errors import UserError
from infoae_jax.evaluation.table import as_text, table_rows
from infoae_jax.images.grid import encode_png
from infoae_jax.reports import run as run_module
from infoae_jax.reports.run import render_run_report
from infoae_jax.runs.folder import RunInfo, open_run
from infoae_jax.runs.metrics import append_metrics
from tests.html_page import Page
from tests.records import RECORD


@pytest.fixture
def make_run(tmp_path, tiny_config):
    def make(name, evaluated=True):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        info = RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "data")
        open_run(folder, info, "2 x cpu")
        append_metrics(folder, "start", step=0, device="2 x cpu", environment={"jax": "1"}, time="now")
        for epoch, mse in ((1, 0.08), (2, 0.02), (3, 0.012)):
            means = {"reconstruction": mse, "adversary_accuracy": 0.2, "lambda": 0.001 * epoch}
            append_metrics(folder, "epoch", step=4 * epoch, epoch=epoch, **means)
            append_metrics(folder, "test", step=4 * epoch, epoch=epoch, reconstruction=mse, content_accuracy=0.5)
        (folder / "samples").mkdir()
        for epoch in (0, 3):
            (folder / "samples" / f"epoch_{epoch:04d}.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
        if evaluated:
            (folder / "evaluation_quick.json").write_text(json.dumps(RECORD))
        return folder

    return make


def test_page_shows_pictures_curves_and_figures_without_network(make_run):
    page = Page(render_run_report([make_run("one")]))
    assert page.tags.count("img") == 3  # the last swaps, and two epochs
    assert page.tags.count("polyline") == 5
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "script" not in page.tags
    for words in (
        "81.23%",
        "Cycle-VAE 94.0 %",
        "0.910",
        "undefined",
        "only for <rendered>",
        "(quick)",
        "not trusted",
        '"abc"',
    ):
        assert words in page.text, words


def test_runs_stand_side_by_side_with_what_differs(make_run):
    one, two = make_run("a/same"), make_run("b/same", evaluated=False)
    record = json.loads((two / "config.json").read_text())
    record["config"]["train"]["lambda_adv"] = 0.07
    (two / "config.json").write_text(json.dumps(record))
    page = Page(render_run_report([one, two]))
    assert "a/same" in page.text
    assert "b/same" in page.text
    assert "train.lambda_adv: 0.001 -> 0.07" in page.text
    assert f"Not evaluated yet: infoae evaluate {two}" in " ".join(page.text.split())
    assert page.tags.count("polyline") == 10


def test_names_are_escaped(make_run):
    text = render_run_report([make_run("<b>&")])
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_command_writes_the_page_and_overwrites_nothing_but_a_page(make_run, tmp_path, capsys):
    run = make_run("run")
    assert main(["report", str(run)]) == 0
    first = (run / "report.html").read_text()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == first
    own = tmp_path / "own.html"
    own.write_text("mine")
    assert main(["report", str(run), f"--out={own}"]) == 2
    assert own.read_text() == "mine"
    assert "no report" in capsys.readouterr().err
    shutil.rmtree(run / "samples")
    (run / "metrics.jsonl").unlink()
    assert Page(render_run_report([run])).tags.count("img") == 0
    with pytest.raises(UserError, match="not a run folder"):
        render_run_report([tmp_path / "nothing"])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.2), (3, 300), (0.0101, 0.0102)])
def test_ticks_enclose_the_values(low, high):
    ticks = run_module._ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("low", "high"), [(0.0123, 0.5), (0.01, 0.01), (1, 1000), (0.008, 0.009)])
def test_logarithmic_ticks_enclose_the_values(low, high):
    ticks = run_module._log_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]


def test_table_names_references_for_mnist_only():
    assert any(row.reference for row in table_rows(RECORD))
    other = {**RECORD, "data": {**RECORD["data"], "name": "rendered"}}
    assert not any(row.reference for row in table_rows(other))
    assert "left out" in as_text(RECORD)
