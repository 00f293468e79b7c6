import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from infoae_jax.data.load import load_splits
from infoae_jax.errors import DivergedError
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import monitor
from infoae_jax.training.fit import build_model
from infoae_jax.training.monitor import Reporter, check_sound, measure_test_split, observe
from infoae_jax.training.run import Run
from infoae_jax.training.state import METRICS
from tests.small_training import call, devices_mesh, init


@pytest.fixture
def run(tiny_config, tmp_path):
    """A run that prints into the list `run.lines`."""
    splits, mesh, lines = load_splits(tiny_config.data), devices_mesh(4), []
    model, options = build_model(tiny_config, splits), {"should_stop": lambda step: False, "print": lines.append}
    run = Run(tiny_config, tmp_path, splits, model, "4 x cpu", mesh, mesh, **options)
    run.lines = lines
    return run


METRICS_OF_A_STEP = dict.fromkeys(METRICS, 0.5)


def test_sound_metrics_come_back_as_numbers(run, tmp_path):
    values = check_sound(run, "train", 1, 3, {name: jnp.float32(0.5) for name in METRICS})
    assert values == METRICS_OF_A_STEP
    assert all(isinstance(value, float) for value in values.values())
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "train",
            {"content": np.nan},
            r"(?s)epoch 2 \(step 7\).*'train': content became infinite.*lambda_adv.*latent=ball",
        ),
        (
            "train",
            {"adversary": 2e3},
            r"the adversary's loss is 2000: the encoder wins by making its latent ever larger",
        ),
        ("align", {"total": np.inf, "cycle": np.nan}, r"(?s)'align': cycle and total became .*model\.couplings=0"),
        ("refine", {"content": -np.inf}, r"(?s)content -inf.*refine\.epochs=0"),
    ],
)
def test_unsound_metrics_end_the_training_and_are_logged(run, tmp_path, kind, changes, message):
    with pytest.raises(DivergedError, match=message):
        check_sound(run, kind, 2, 7, METRICS_OF_A_STEP | changes)
    (line,) = read_metrics(tmp_path, "diverged")
    assert line["step"] == 7
    assert line["lambda"] == 0.5


def test_only_the_autoencoders_adversary_can_run_away(run):
    assert check_sound(run, "align", 1, 1, {"adversary": 2e3}) == {"adversary": 2e3}


def test_test_metrics_are_means_over_the_whole_split(run, monkeypatch):
    """Each image counts once, at any size of the batches: the last is not full."""
    test = dataclasses.replace(run.splits.test, images=run.splits.test.images[:50], labels=run.splits.test.labels[:50])
    run.splits, params = run.splits._replace(test=test), init(run.model).params
    monkeypatch.setattr(monitor, "batch_size", lambda *args: 16)
    found = measure_test_split(run, params)
    z = call(run.model, params, "encode", test.images)
    decoded = np.asarray(call(run.model, params, "decode", z, test.labels))
    assert found["reconstruction"] == pytest.approx(np.mean((decoded - test.images / 255.0) ** 2), rel=1e-4)
    content = np.asarray(call(run.model, params, "classify", test.images)).argmax(axis=1)
    assert found["content_accuracy"] == pytest.approx(np.mean(content == test.labels))
    adversary = np.asarray(call(run.model, params, "adversary_logits", z, 0.0)).argmax(axis=1)
    assert found["adversary_accuracy"] == pytest.approx(np.mean(adversary == test.labels))


def test_samples_show_the_models_swaps(run, tmp_path):
    state, test = init(run.model), run.splits.test
    metrics = observe(run, state, 2, 8)
    (line,) = read_metrics(tmp_path, "test")
    assert line == {"kind": "test", "step": 8, "epoch": 2, **metrics}
    assert run.lines[0].endswith(
        f"test: mse {metrics['reconstruction']:.5f}, content {metrics['content_accuracy']:.2%}"
    )
    row = np.flatnonzero(test.labels == 4)[0]
    source = np.repeat(test.images[row : row + 1], 10, axis=0)
    swaps = np.asarray(call(run.model, state.params, "transfer", source, np.arange(10)))
    with Image.open(tmp_path / "samples" / "epoch_0002.png") as sheet:
        assert sheet.size == (2 * (11 * 34 - 2 + 8), 2 * (10 * 34 - 2))
        shown = np.asarray(sheet)[::2, ::2]
    line = shown[4 * 34 : 4 * 34 + 32]
    np.testing.assert_array_equal(line[:, :32], test.images[row])
    expected = np.rint(np.clip(swaps[7], 0, 1) * 255)
    np.testing.assert_allclose(line[:, 8 * 34 + 8 : 8 * 34 + 40], expected, atol=1)


def test_a_ruined_model_has_no_samples(run, tmp_path):
    state = init(run.model)
    ruined = dataclasses.replace(state, params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    assert np.isnan(observe(run, ruined, 1, 4)["reconstruction"])
    assert read_metrics(tmp_path, "test")[0]["reconstruction"] == "nan"
    assert not (tmp_path / "samples").exists()


def test_metrics_are_logged_one_interval_late_and_before_a_save(run, tmp_path):
    """A log line every 2nd step."""
    report = Reporter(run, steps_per_epoch=4)

    def logged():
        return [(line["step"], line["total"]) for line in read_metrics(tmp_path, "step")]

    with report.bar(0):
        for step in (1, 2, 3):
            report.step(step, 1, METRICS_OF_A_STEP | {"total": float(step)})
        assert logged() == []
        report.step(4, 1, METRICS_OF_A_STEP | {"total": 4.0})
        assert logged() == [(2, 2.0)]
        report.check(4, METRICS_OF_A_STEP)
        assert logged() == [(2, 2.0), (4, 4.0)]
        report.step(6, 1, METRICS_OF_A_STEP | {"total": np.nan})
        with pytest.raises(DivergedError, match=r"epoch 2 \(step 6\)"):
            report.check(7, METRICS_OF_A_STEP)


def test_without_a_terminal_there_is_a_line_now_and_then(run, monkeypatch):
    report = Reporter(run, steps_per_epoch=4)
    for seconds, lines in ((1e9, 0), (-1, 1)):
        monkeypatch.setattr(monitor, "MIN_SECONDS_BETWEEN_LINES", seconds)
        with report.bar(0):
            report.step(2, 1, METRICS_OF_A_STEP)
            report.check(2, METRICS_OF_A_STEP)
        assert len(run.lines) == lines
    assert run.lines == ["step 2/8  mse 0.50000 adversary 0.500"]


def test_an_epoch_has_its_means_and_a_line(run, tmp_path):
    sums = {name: np.float32(2.0) for name in METRICS} | {"count": np.float32(4)}
    Reporter(run, steps_per_epoch=4).epoch(4, sums, images_per_s=64.0)
    (line,) = read_metrics(tmp_path, "epoch")
    assert line == {"kind": "epoch", "step": 4, "epoch": 1, **dict.fromkeys(METRICS, 0.5), "images_per_s": 64.0}
    assert run.lines == [
        "1/2  mse 0.50000  adversary 0.500 (50.0% right)  content 50.0%  lambda 0.5  64 images/s  00:04 left of this "
        "phase"
    ]
