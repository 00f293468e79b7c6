import json
import re

import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.errors import UserError
from infoae_jax.reports.charts import SERIES
from infoae_jax.reports.sweep import write_sweep_report
from tests import chromium
from tests.html_page import Page
from tests.report_folders import grid, make_sweep


@pytest.fixture(scope="module")
def config():
    return parse(rendered.get_config("tiny"))


@pytest.fixture
def make(tmp_path, config):
    return lambda *trials: make_sweep(tmp_path / "mine" / "sweep", config, *trials)


@pytest.fixture(scope="module")
def path(tmp_path_factory, config):
    """The page of `grid`."""
    folder = make_sweep(tmp_path_factory.mktemp("runs") / "mine" / "sweep", config, *grid())
    return write_sweep_report(folder.parent)


@pytest.fixture(scope="module")
def text(path):
    return path.read_text()


def charts(text):
    """The SVG of the trade-off, wide and narrow, and of the maps."""
    return re.findall(r"<svg.*?</svg>", text, re.DOTALL)


def test_page_shows_all_trials_and_recommends_by_the_rule(text):
    page = Page(text)
    words = " ".join(page.text.split())
    assert "mine, sweep: rendered, quick protocol" in page.text
    assert "10 trials started: 8 finished, 2 diverged." in words
    assert "bottleneck=16,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "MSE is at most 10% above" in words
    assert "chance 11.3%, ± 0.7% over 2 seeds, quick protocol" in words
    assert page.text.count("★") == 3  # the note and both seeds
    assert page.text.count("the <adversary> ran away") == 2
    assert "bottleneck 8: λ 0 (leakage 50.5%, MSE 0.0300)" in words  # within its curve
    assert "do not trust transfer" in words
    images = [address for address in page.addresses if not address.startswith("#")]
    assert [address[:23] for address in images] == ["data:image/webp;base64,"] * 8
    assert all("w3.org" in address for address in re.findall(r"https?://[^\"' ]+", text))
    assert text.count('<tr data-trial="') == 8
    assert re.findall(r"data-first>\s*<figcaption><b>([^ ]*)</b>", text.replace("<wbr>", "")) == [
        "bottleneck=8,lambda_adv=0.01,seed=0",
        "bottleneck=16,lambda_adv=0,seed=0",
        "bottleneck=16,lambda_adv=0.01,seed=0",
    ]


def test_what_can_be_pointed_at_is_in_every_chart(text):
    found = charts(text)
    assert len(found) == 2 + 2  # wide, narrow, and the metrics that the records have
    settings = set(re.findall(r'data-setting="([^"]+)"', text))
    assert len(settings) == 4
    for chart in found:
        assert sorted(re.findall(r'id="[^"]*pick-([^"]+)"', chart)) == sorted(settings)
        assert SERIES[0] in chart
    assert all("diverged" in chart for chart in found[2:])
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(names)


def test_a_recommended_leakage_below_chance_is_called_noise(make, text):
    assert "noise" not in Page(text).text
    folder = make(({"model.bottleneck": 8}, (0.11, 0.01)), ({"model.bottleneck": 4}, (0.2, 0.01)))
    words = " ".join(Page(write_sweep_report(folder).read_text()).text.split())
    assert "Its leakage is below chance, which is noise" in words


def test_full_figures_stand_beside_those_that_are_compared(make):
    folder = make(*grid(seeds=(0,)))
    for name, quick_too in (
        ("bottleneck=16,lambda_adv=0.01,seed=0", True),
        ("bottleneck=8,lambda_adv=0,seed=0", False),
    ):
        record = json.loads((folder / name / "evaluation_quick.json").read_text())
        record["protocol"] = {"name": "full"}
        record["figures"]["leakage"]["probe_accuracy"] = 0.9876 if quick_too else 0.3456
        (folder / name / "evaluation.json").write_text(json.dumps(record))
        if not quick_too:
            (folder / name / "evaluation_quick.json").unlink()
    text = write_sweep_report(folder).read_text()
    page = Page(text)
    words = " ".join(page.text.split())
    assert "bottleneck=16,lambda_adv=0.01" in page.text.partition("Trade-off")[0]
    assert "Measured in full: leakage 98.8%, MSE 0.0105." in words
    assert "leakage in full" in page.text
    assert (page.text.count("98.8%"), page.text.count("34.6%")) == (2, 1)
    assert text.count('<tr data-trial="') == 3
    assert "Only trials evaluated by the quick protocol" in words


def test_hostile_texts_are_escaped(make):
    hostile = "</pre></script><script>alert('\"&')</script>"
    folder = make(({"model.bottleneck": 8}, (0.2, 0.01)), ({"model.bottleneck": 4}, hostile))
    folder = folder.parent.rename(folder.parents[1] / "<script>&") / "sweep"
    text = write_sweep_report(folder).read_text()
    page = Page(text)
    assert page.tags.count("script") == 1  # ours
    assert hostile in page.text
    assert "<script>&, sweep" in page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("evaluation_quick.json", b'{"format": 4, "figures": null}'),
        ("failed.json", b"[]"),
        ("samples/epoch_0002.png", b"none"),
        ("metrics.jsonl", b"\xff\n"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out", "ignore:The image")
def test_a_damaged_trial_is_shown_as_such_beside_the_others(make, name, content):
    folder = make(*grid())
    trial = folder / "bottleneck=8,lambda_adv=0.01,seed=0"
    (trial / name).write_bytes(content)
    page = Page(write_sweep_report(folder).read_text())
    words = " ".join(page.text.split())
    assert "bottleneck=16,lambda_adv=0.01" in words.partition("Trade-off")[0]
    if name.endswith(".json"):
        assert "7 finished, 1 damaged, 2 diverged." in words.replace("1 damaged, 7 finished", "7 finished, 1 damaged")
        assert str(trial / name) in words


def test_page_and_figures_are_the_same_each_time(path):
    figures = path.parent / "figures"
    names = [f"{name}.{kind}" for name in ("map_mse", "map_probe_accuracy", "tradeoff") for kind in ("png", "svg")]
    written = {name: (figures / name).read_bytes() for name in names}
    again = write_sweep_report(path.parent, path.parent / "again.html")
    assert again.read_bytes() == path.read_bytes()
    assert {file.name: file.read_bytes() for file in figures.iterdir()} == written
    assert written["tradeoff.png"].startswith(b"\x89PNG")
    assert b"var(" not in written["tradeoff.svg"]


def test_nothing_of_the_users_is_overwritten(make):
    folder = make(({}, (0.2, 0.01)))
    own = folder / "figures" / "map_mse.svg"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(UserError, match=r"map_mse.svg' exists and is not part of a report. Move it away."):
        write_sweep_report(folder)
    assert own.read_text() == "mine"
    own.unlink()
    (folder / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report.html' exists and is not part of a report. Choose another --out."):
        write_sweep_report(folder)
    assert (folder / "report.html").read_text() == "mine"


def test_before_anything_is_finished(make):
    folder = make(*[trial for trial in grid() if isinstance(trial[1], str)])
    page = Page(write_sweep_report(folder).read_text())
    assert "No trial is finished" in page.text
    assert not {"script", "svg"} & set(page.tags)
    assert not (folder / "figures").exists()


@pytest.mark.skipif(chromium.executable() is None, reason="Chromium is not installed")
def test_pointing_choosing_and_sorting(path):
    visible = "[...document.querySelectorAll('.swap')].filter(c => !c.hidden).map(c => c.dataset.trial)"
    setting = "bottleneck=8,lambda_adv=0"
    with chromium.Chromium() as browser:
        browser.open(path.as_uri())
        assert len(browser.run(visible)) == 3
        x, y, width, height = browser.box(f"[id='wide.pick-{setting}']")
        place = {"x": x + width / 2, "y": y + height / 2}
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        assert setting in browser.run("document.querySelector('.tip:not([hidden])').textContent")
        assert browser.run("document.querySelectorAll('tr.near').length") == 2
        for kind in ("mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        assert f"{setting},seed=0" in browser.run(visible)
        assert browser.run(f"document.querySelectorAll('.on[id$=\"pick-{setting}\"]').length") == 4
        browser.run(f"document.querySelector('[data-trial=\"{setting},seed=0\"] .drop').click()")
        assert len(browser.run(visible)) == 3
        rows = "[...document.querySelectorAll('#trials tr[data-trial]')]"
        for order in (sorted, lambda values: sorted(values, reverse=True)):
            browser.run("document.querySelectorAll('#trials th')[4].querySelector('button').click()")
            found = browser.run(f"{rows}.map(row => parseFloat(row.cells[4].textContent))")
            assert found == order(found)
        assert browser.errors == []


@pytest.mark.skipif(chromium.executable() is None, reason="Chromium is not installed")
def test_on_a_phone_only_the_table_scrolls_and_a_shadow_says_so(path):
    with chromium.Chromium(390, 844, phone=True) as phone:
        phone.open(path.as_uri())
        assert phone.run("document.documentElement.scrollWidth") <= 390
        assert phone.run("(t => t.scrollWidth > t.clientWidth)(document.querySelector('.scroll'))")
        attachment = phone.run("getComputedStyle(document.querySelector('.scroll')).backgroundAttachment")
        assert attachment == "local, local, scroll, scroll"
