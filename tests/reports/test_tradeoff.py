import pytest

from infoae_jax.evaluation.table import HEADLINE, Reference
from infoae_jax.reports.charts import INK, SERIES
from infoae_jax.reports.tradeoff import PAPER, arrange, heat_map, tradeoff_chart
from infoae_jax.sweeps.results import group_by_setting, read_trials
from tests.report_folders import grid, make_sweep

LEAKAGE, MSE = HEADLINE[:2]


@pytest.fixture
def make(tmp_path, tiny_config):
    """Makes the folders of a sweep and returns its trials."""
    return lambda *trials: read_trials(make_sweep(tmp_path / "sweep", tiny_config, *trials))


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
    trials = make(*[(values, (0.2 + 0.1 * i, 0.01)) for i, values in enumerate(changes)])
    arrangement = arrange(group_by_setting(trials))
    assert arrangement.along == along
    assert sorted(arrangement.curves) == labels
    assert sum(map(len, arrangement.curves.values())) == len(changes)
    for settings in arrangement.curves.values():
        values = [setting.values.get(along) for setting in settings]
        assert along is None or values == sorted(values)
    assert tradeoff_chart(arrangement, None, [], PAPER).axes[0].has_data()
    assert len(heat_map(arrangement, None, MSE).axes[0].patches) == len(changes)


def test_points_within_the_frame_and_systems_beyond_it(make):
    settings = group_by_setting(make(*grid(seeds=(0,))))
    near, far = Reference("near", 0.02, 0.4), Reference("far", 0.9, 0.2)
    figure = tradeoff_chart(arrange(settings), settings[3], [near, far, Reference("line", 0.03)], PAPER)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"near", "line", "chance 11.3%", "λ 0", "0.01"} <= set(texts)
    assert "beyond the frame →\nfar: MSE 0.9000, 20.0%" in texts
    (left, right), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    for setting in settings:
        assert left < setting.mean("mse") < right
        assert bottom < setting.mean("probe_accuracy") < top
    assert bottom < 0.1135
    (ring,) = [line for line in figure.axes[0].lines if line.get_markersize() == 14]
    assert ring.get_xydata().tolist() == [[settings[3].mean("mse"), settings[3].mean("probe_accuracy")]]


def test_errors_that_hardly_differ_do_not_fill_the_frame(make):
    settings = group_by_setting(
        make(({"train.lambda_adv": 0.0}, (0.2, 0.01)), ({"train.lambda_adv": 1.0}, (0.3, 0.0101)))
    )
    left, right = tradeoff_chart(arrange(settings), None, [], PAPER).axes[0].get_xlim()
    assert left < 0.01 < 0.0101 < 0.011 < right


def test_labels_of_points_cover_neither_each_other_nor_points(make):
    trials = [({"train.lambda_adv": 0.001 * i}, (0.3 + 0.002 * (i % 3), 0.01 + 1e-5 * (i % 4))) for i in range(12)]
    trials += [({"train.lambda_adv": 0.5}, (0.1, 0.02))]
    axes = tradeoff_chart(arrange(group_by_setting(make(*trials))), None, [], PAPER).axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() != "chance 11.3%"]
    assert 2 < len(boxes) < 13
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)


def test_seeds_have_their_standard_deviation(make):
    arrangement = arrange(group_by_setting(make(*grid(seeds=(0, 1)))))
    axes = tradeoff_chart(arrangement, None, [], PAPER).axes[0]
    assert len(axes.collections) == 2 * 4  # bars of both directions
    one = arrangement.curves["bottleneck 16"][0]
    heights = [path.vertices[:, 1] for bars in axes.collections for path in bars.get_paths()]
    expected = one.mean("probe_accuracy") + one.spread("probe_accuracy")
    assert any(height.max() == pytest.approx(expected) for height in heights)


@pytest.mark.parametrize("metric", [LEAKAGE, MSE], ids=lambda metric: metric.name)
def test_map_is_strongest_where_a_metric_is_best_and_frames_the_recommended(make, metric):
    trials = make(*grid())
    settings = group_by_setting(trials)
    failed = [trial for trial in trials if trial.reason]
    axes = heat_map(arrange(settings), settings[3], metric, failed).axes[0]
    cells = {patch.get_gid(): patch for patch in axes.patches}
    assert set(cells) == {f"pick-{setting.name}" for setting in settings}
    strength = {name: patch.get_facecolor()[3] for name, patch in cells.items()}
    best = min(settings, key=lambda setting: setting.mean(metric.name))
    assert max(strength, key=strength.get) == f"pick-{best.name}"
    framed = [name for name, patch in cells.items() if patch.get_edgecolor()[3] > 0]
    assert framed == [f"pick-{settings[3].name}"]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("diverged") == 1  # both seeds, one cell
    assert {metric.write(setting.mean(metric.name)) for setting in settings} <= set(texts)
    assert {text.get_color() for text in axes.texts if text.get_text() != "diverged"} == {INK}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.01", "0.1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("λ", "bottleneck")
    assert axes.get_title(loc="left") == f"{metric.title} ↓  (rendered, quick protocol)"


def strengths(trials):
    axes = heat_map(arrange(group_by_setting(trials)), None, LEAKAGE).axes[0]
    return [patch.get_facecolor()[3] for patch in axes.patches]


@pytest.mark.parametrize(("step", "is_noise"), [(0.001, True), (0.3, False)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_noise_has_little_contrast_in_a_map(make, step, is_noise, seeds):
    trials = [
        ({"model.bottleneck": 2 + i, "train.seed": seed}, (0.2 + step * i + 0.01 * seed, 0.01))
        for i in range(3)
        for seed in seeds
    ]
    found = strengths(make(*trials))
    assert found == sorted(found, reverse=True)
    assert (found[0] - found[-1] < 0.15) == is_noise


def test_values_of_a_map_are_as_large_however_many_there_are(make):
    trials = make(*[({"train.lambda_adv": 0.01 * i}, (0.2 + 0.01 * i, 0.01)) for i in range(12)])
    figure = heat_map(arrange(group_by_setting(trials)), None, MSE)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)
    assert {text.get_fontsize() for text in figure.axes[0].texts} == {9}


def test_no_map_of_what_no_setting_has(make):
    assert heat_map(arrange(group_by_setting(make(*grid(seeds=(0,))))), None, HEADLINE[2]) is None


def test_more_curves_than_colours_have_other_markers(make):
    trials = [({"train.lambda_adv": 0.0, "model.bottleneck": 2 + i}, (0.3, 0.01 + i)) for i in range(7)]
    trials += [({"train.lambda_adv": 0.1, "model.bottleneck": 2 + i}, (0.2, 0.01 + i)) for i in range(7)]
    axes = tradeoff_chart(arrange(group_by_setting(make(*trials))), None, [], PAPER).axes[0]
    dots = [line for line in axes.lines if (line.get_gid() or "").startswith("pick-")]
    looks = {(line.get_color(), line.get_marker()) for line in dots}
    assert len(looks) == 7
    assert {(SERIES[0], "o"), (SERIES[0], "s")} <= looks
