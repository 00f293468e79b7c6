import html.parser
import json
import shutil

import numpy as np
import pytest

from infoae_jax import report, runlog, table
from infoae_jax.__main__ import main
from infoae_jax.errors import UserError
from infoae_jax.grid import png

RECORD = {
    "protocol": {"name": "quick"},
    "step": 12,
    "data": {"name": "mnist", "train": 100, "test": 1500},
    "bottleneck": 16,
    "figures": {
        "leakage": {
            "accuracy": 0.8123,
            "probe": "mlp_512",
            "fitted_on": "held_out",
            "chance": 0.1135,
            "bits": 2.1,
            "training_codes_accuracy": 0.85,
            "entropy_bits": 3.3,
            **{kind: {"linear": 0.5} for kind in ("train_fitted", "held_out", "training_codes")},
        },
        "reconstruction": {"mse": 0.01234, "psnr": 20.5, "ssim": 0.9, "z_used_gap": 0.02},
        "transfer": {"accuracy": 0.97, "by_class": [0.9, 0.99], "judge_accuracy": [0.99] * 3, "judge_bar": 0.993},
        "style": {"r": {"slant": 0.91, "width": None}, "ceiling": {"slant": 0.99, "width": 0.9}, "without_stroke": 3},
    },
    "left_out": {"counterfactual": "only for <rendered>"},
    "untrusted": ["transfer"],
    "environment": {"code": {"commit": "abc"}},
    "cost": {"encode_images_per_s": 1000.0, "decode_images_per_s": 900.0, "device": "2 x cpu", "parameters": 12345},
}


@pytest.fixture
def make_run(tmp_path, tiny_config):
    def make(name, evaluated=True):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        info = runlog.RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "data")
        runlog.open_run(folder, info, "2 x cpu")
        runlog.append(folder, "start", step=0, device="2 x cpu", environment={"jax": "1"}, time="now")
        for epoch, mse in ((1, 0.08), (2, 0.02), (3, 0.012)):
            means = {"reconstruction": mse, "adversary_accuracy": 0.2, "lambda": 0.001 * epoch}
            runlog.append(folder, "epoch", step=4 * epoch, epoch=epoch, **means)
            runlog.append(folder, "test", step=4 * epoch, epoch=epoch, reconstruction=mse, content_accuracy=0.5)
        (folder / "samples").mkdir()
        for epoch in (0, 3):
            (folder / "samples" / f"epoch_{epoch:04d}.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
        if evaluated:
            (folder / "evaluation_quick.json").write_text(json.dumps(RECORD))
        return folder

    return make


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced and collects texts, addresses and tags."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.addresses, self.text = [], [], [], ""
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, text):
        self.text += text


def test_page_shows_pictures_curves_and_figures_without_network(make_run):
    page = Page(report.render([make_run("one")]))
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
    page = Page(report.render([one, two]))
    assert "a/same" in page.text
    assert "b/same" in page.text
    assert "train.lambda_adv: 0.001 -> 0.07" in page.text
    assert f"Not evaluated yet: infoae evaluate {two}" in " ".join(page.text.split())
    assert page.tags.count("polyline") == 10


def test_names_are_escaped(make_run):
    text = report.render([make_run("<b>&")])
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
    assert Page(report.render([run])).tags.count("img") == 0
    with pytest.raises(UserError, match="not a run folder"):
        report.render([tmp_path / "nothing"])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.2), (3, 300), (0.0101, 0.0102)])
def test_ticks_enclose_the_values(low, high):
    ticks = report._ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("low", "high"), [(0.0123, 0.5), (0.01, 0.01), (1, 1000), (0.008, 0.009)])
def test_logarithmic_ticks_enclose_the_values(low, high):
    ticks = report._log_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]


def test_table_names_references_for_mnist_only():
    assert any(row.reference for row in table.rows(RECORD))
    other = {**RECORD, "data": {**RECORD["data"], "name": "rendered"}}
    assert not any(row.reference for row in table.rows(other))
    assert "left out" in table.as_text(RECORD)
