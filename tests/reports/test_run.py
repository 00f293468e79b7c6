import copy
import json
import re
import shutil

import pytest

from infoae_jax.errors import UserError
from infoae_jax.reports.run import write_run_report
from infoae_jax.runs.metrics import append_metrics
from tests.html_page import Page
from tests.records import RECORD
from tests.report_folders import make_run

HOSTILE = "<script>alert('\"&')</script>"


@pytest.fixture
def make(tmp_path, tiny_config):
    return lambda name, **options: make_run(tmp_path / name, tiny_config, **options)


@pytest.fixture
def render(tmp_path):
    """Makes the page about runs and returns its text."""

    def write(*runs):
        write_run_report(runs, tmp_path / "page.html")
        return (tmp_path / "page.html").read_text()

    return write


def curves(text):
    return len(re.findall(r'<g id="curve-\d\.run-\d"', text))


def test_page_shows_swaps_curves_and_figures_without_network(make, render):
    text = render(make("one"))
    page = Page(text)
    assert page.tags.count("img") == 3  # the last swaps, and two epochs
    assert page.tags.count("svg") == curves(text) == 5
    addresses = [address for address in page.addresses if not address.startswith("#")]
    assert len(addresses) == 3
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert all("w3.org" in address for address in re.findall(r"https?://[^\"' ]+", text))
    assert "script" not in page.tags
    for words in (
        "81.2%",
        "chance 11.3%",
        "PSNR 20.5 dB",
        "slant 0.91",
        "Cycle-VAE 99.7%",
        "0.910",
        "undefined",
        "only for <rendered>",
        "(quick)",
        "judges not trusted",
        "not finished",
        '"abc"',
    ):
        assert words in page.text, words


def test_runs_stand_side_by_side_with_what_differs(make, render):
    one, two = make("a/same"), make("b/same", evaluated=False)
    record = json.loads((two / "config.json").read_text())
    record["config"]["train"]["lambda_adv"] = 0.07
    (two / "config.json").write_text(json.dumps(record))
    append_metrics(two, "end", step=12, time="2020-01-01T00:00:00Z")
    text = render(one, two)
    page = Page(text)
    assert "a/same and b/same: rendered, quick protocol" in page.text
    assert "train.lambda_adv: 0.003 -> 0.07" in page.text
    assert f"Not evaluated yet: infoae evaluate {two}" in " ".join(page.text.split())
    assert "3 of 2 epochs,\nfinished" in page.text
    assert page.tags.count("svg") == 5
    assert curves(text) == 10


def test_curves_of_several_runs_have_a_legend_each(make, render):
    runs = [make(f"run{i}") for i in range(7)]
    assert 'class="key"' not in render(runs[0])
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", render(*runs).partition("<h2>Curves</h2>")[2], re.DOTALL)
    assert len(captions) == 5
    for caption in captions:
        assert re.findall(r'dot (s\d[^"]*)"></i>(run\d)', caption) == [
            *((f"s{i}", f"run{i}") for i in range(6)),
            ("s0 dashed", "run6"),
        ]


def test_a_leakage_below_chance_is_called_noise(make, render):
    record = copy.deepcopy(RECORD)
    record["figures"]["leakage"]["probe_accuracy"] = 0.1
    assert "chance 11.3%, below it is noise" in Page(render(make("lucky", record=record))).text
    assert "below it is noise" not in Page(render(make("one"))).text


def test_figures_of_several_protocols_are_told_apart(make, render):
    one, two = make("one"), make("two")
    record = {**RECORD, "protocol": {"name": "full"}, "left_out": {}}
    (two / "evaluation.json").write_text(json.dumps(record))
    words = " ".join(Page(render(one, two)).text.split())
    assert "(full and quick protocol)" in words
    assert "Figures of different protocols are not comparable." in words
    assert words.count("(quick)") == 4  # the tiles of one run
    assert words.count("only for <rendered>") == 1


def test_hostile_texts_are_escaped(make, render):
    record = copy.deepcopy(RECORD)
    record["class_names"] = [HOSTILE, HOSTILE]
    record["left_out"]["realism"] = HOSTILE
    name = HOSTILE.replace("/", "")
    text = render(make(f"a/{name}", record=record, class_names=(HOSTILE, "1")), make(f"b/{name}", record=record))
    page = Page(text)
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert f"a/{name}" in page.text


def test_page_of_a_run_that_has_just_begun(make, render):
    run = make("run")
    shutil.rmtree(run / "samples")
    for name in ("metrics.jsonl", "evaluation_quick.json"):
        (run / name).unlink()
    page = Page(render(run))
    assert not {"img", "svg", "table"} & set(page.tags)
    assert "0 of 2 epochs" in page.text


def test_what_is_no_run_is_refused(tmp_path, render):
    with pytest.raises(UserError, match="not a run folder"):
        render(tmp_path / "nothing")
    assert not (tmp_path / "page.html").exists()
