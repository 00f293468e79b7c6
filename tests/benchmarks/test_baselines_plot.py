from matplotlib.figure import Figure
from PIL import Image

from benchmarks.baselines_plot import plot


def record(leakage, mse, style=0.5):
    return {
        "figures": {
            "leakage": {"highest": leakage},
            "reconstruction": {"mse": mse},
            "style": {"correlation": dict.fromkeys(("slant", "thickness", "area"), style)},
        }
    }


def test_each_row_is_at_its_means_and_those_that_diverged_are_left_out(tmp_path, monkeypatch):
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: [saved.append(figure), save(figure, file)])
    both = {"fitted_on_training_codes": 0.2, "folds_by_group": 0.15}
    rows = {
        "ours": [record(both, 0.01), record(both | {"fitted_on_training_codes": 0.4}, 0.02)],
        "conditional VAE": ["diverged"],
        "released: Other": [record({"fitted_on_training_codes": 0.8}, 0.03)],
        "class means": [record(both, 0.05, None)],
    }
    plot(rows, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 1000
    (figure,) = saved
    kinds, key = figure.legends
    assert len(kinds.get_texts()) == 3
    assert key.get_title().get_text() == "1  ours\n3  Other\n4  class means"
    for axes, heights in zip(figure.axes, [(0.015, 0.03, 0.05), (0.5, 0.5)], strict=True):
        markers = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert [line.get_xydata().round(6).tolist() for line in markers] == [
            [[x, y]] for x, y in zip((30, 80, 20), heights, strict=False)
        ]
        ends = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "-"]
        assert [[round(x, 6) for x in line] for line in ends] == [[30, 15], [80], [20, 15]][: len(heights)]
