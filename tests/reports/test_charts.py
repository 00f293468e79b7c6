import re

import pytest

from infoae_jax.reports.charts import COLOURS, MAKER, SERIES, as_file, as_markup, line_chart

LINES = {0: [(1, 0.5), (2, 0.02)], 7: [(1, 0.3), (3, 0.1)]}


@pytest.mark.parametrize("scale", ["linear", "log", "percent"])
@pytest.mark.parametrize(("low", "high"), [(0.0123, 0.5), (0.01, 0.01), (1, 1000), (0.008, 0.009), (0.2, 0.2)])
def test_axis_holds_all_values_and_some_round_numbers(low, high, scale):
    axes = line_chart({0: [(1, low), (2, high)]}, scale, "MSE").axes[0]
    bottom, top = axes.get_ylim()
    assert bottom < low <= high < top
    shown = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    assert 2 <= len(shown) <= 10
    numbers = [float(axes.yaxis.get_major_formatter()(tick).removesuffix("%")) for tick in shown]
    assert numbers == pytest.approx([100 * tick if scale == "percent" else tick for tick in shown])


@pytest.mark.parametrize("epochs", [(1, 2), (1, 1), (0, 200), (7, 8, 9)])
def test_axes_have_titles_and_whole_epochs(epochs):
    axes = line_chart({0: [(epoch, 0.5) for epoch in epochs]}, "percent", "accuracy").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy")
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert "50%" in [tick.get_text() for tick in axes.get_yticklabels()]


def test_runs_beyond_the_colours_are_dashed():
    first, other = line_chart(LINES, "linear", "MSE").axes[0].lines
    assert (first.get_color(), first.get_linestyle()) == (SERIES[0], "-")
    assert (other.get_color(), other.get_linestyle()) == (SERIES[1], "--")


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_files_are_the_same_each_time_and_say_who_made_them(kind):
    first, again = (as_file(line_chart(LINES, "log", "MSE"), kind) for _ in range(2))
    assert first == again
    assert MAKER.encode() in first


def test_text_of_a_file_stays_text():
    assert ">0.02</text>" in as_file(line_chart(LINES, "log", "MSE"), "svg").decode()


def test_part_of_a_page_has_ids_and_colours_of_the_page():
    text = as_markup(line_chart(LINES, "log", "MSE"), "first") + as_markup(line_chart(LINES, "log", "MSE"), "second")
    assert text.startswith("<svg")
    assert "<!DOCTYPE" not in text
    groups = re.findall(r'<g id="([^"]+)"', text)
    assert {name.partition(".")[0] for name in groups} == {"first", "second"}
    assert {"first.run-0", "first.run-7", "second.run-0", "second.run-7"} <= set(groups)
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    assert used
    assert used <= set(names)
    assert "metadata" not in text
    assert set(re.findall(r"#[0-9a-f]{6}\b", " ".join(re.findall(r'style="[^"]*"', text)))) <= {*COLOURS.values()}
