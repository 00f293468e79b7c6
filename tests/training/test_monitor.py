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
from infoae_jax.training.autoencoder import METRICS
from infoae_jax.training.fit import build_model
from infoae_jax.training.monitor import Reporter, check_sound, observe
from infoae_jax.training.run import Run
from infoae_jax.training.schedule import init_state, schedule
from tests.small_training import call, devices_mesh


@pytest.fixture
def run(tiny_config, tmp_path):
    """A run that prints into the list `run.lines`."""
    splits, lines = load_splits(tiny_config.data), []
    model = build_model(tiny_config, splits)
    run = Run(tiny_config, tmp_path, splits, model, "4 x cpu", devices_mesh(4), print=lines.append)
    run.lines = lines
    return run


METRICS_OF_A_STEP = dict.fromkeys(METRICS, 0.5)


def test_sound_metrics_come_back_as_numbers(run, tmp_path):
    values = check_sound(run, "autoencoder", 1, 3, {name: jnp.float32(0.5) for name in METRICS})
    assert values == METRICS_OF_A_STEP
    assert all(isinstance(value, float) for value in values.values())
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "autoencoder",
            {"content": np.nan},
            r"(?s)epoch 2 \(step 7\).* of the autoencoder: content became infinite.*lambda_adv.*latent=sphere",
        ),
        (
            "autoencoder",
            {"adversary": 2e3},
            r"the adversary's loss is 2000: the encoder wins by making its latent ever larger",
        ),
        (
            "alignment",
            {"total": np.inf, "cycle": np.nan},
            r"(?s)of the alignment: total and cycle became .*model\.couplings=0",
        ),
        ("refinement", {"content": -np.inf}, r"(?s)content -inf.*refine\.epochs=0"),
    ],
)
def test_unsound_metrics_end_the_training_and_are_logged(run, tmp_path, kind, changes, message):
    with pytest.raises(DivergedError, match=message):
        check_sound(run, kind, 2, 7, METRICS_OF_A_STEP | changes)
    (line,) = read_metrics(tmp_path, "diverged")
    assert line["step"] == 7
    assert line["lambda"] == 0.5


def test_only_the_autoencoders_adversary_can_run_away(run):
    assert check_sound(run, "alignment", 1, 1, {"adversary": 2e3}) == {"adversary": 2e3}


def test_test_metrics_are_means_over_the_whole_split(run, monkeypatch):
    """Each image counts once, however many fit into the memory."""
    test = dataclasses.replace(run.splits.test, images=run.splits.test.images[:50], labels=run.splits.test.labels[:50])
    run.splits, state = run.splits._replace(test=test), init_state(run.model, run.config)
    monkeypatch.setattr(monitor, "MAX_PIXELS_AT_ONCE", 16 * 32 * 32 * 3)
    found = observe(run, state, 0)
    z = call(run.model, state.variables, "encode", test.images)
    decoded = np.asarray(call(run.model, state.variables, "decode", z, test.labels))
    assert found["reconstruction"] == pytest.approx(np.mean((decoded - test.images / 255.0) ** 2), rel=1e-4)
    content = np.asarray(call(run.model, state.variables, "classify", test.images)).argmax(axis=1)
    assert found["content_accuracy"] == pytest.approx(np.mean(content == test.labels))


def test_samples_show_the_models_swaps(run, tmp_path):
    state, test = dataclasses.replace(init_state(run.model, run.config), step=np.array(8)), run.splits.test
    metrics = observe(run, state, 2)
    (line,) = read_metrics(tmp_path, "test")
    assert line == {"kind": "test", "step": 8, "epoch": 2, **metrics}
    assert run.lines[0].endswith(
        f"test: reconstruction {metrics['reconstruction']:.5f}, content {metrics['content_accuracy']:.1%}"
    )
    row = np.flatnonzero(test.labels == 4)[0]
    source = np.repeat(test.images[row : row + 1], 10, axis=0)
    swaps = np.asarray(call(run.model, state.variables, "transfer", source, np.arange(10)))
    with Image.open(tmp_path / "samples" / "epoch_0002.png") as sheet:
        assert sheet.size == (2 * (11 * 34 - 2 + 8), 2 * (13 + 10 * 34 - 2))
        shown = np.asarray(sheet)[::2, ::2][13:]
    line = shown[4 * 34 : 4 * 34 + 32]
    np.testing.assert_array_equal(line[:, :32], test.images[row])
    expected = np.rint(np.clip(swaps[7], 0, 1) * 255)
    np.testing.assert_allclose(line[:, 8 * 34 + 8 : 8 * 34 + 40], expected, atol=1)


def test_a_ruined_model_has_no_samples(run, tmp_path):
    state = init_state(run.model, run.config)
    ruined = dataclasses.replace(state, variables=jax.tree.map(lambda x: x * np.nan, state.variables))
    assert np.isnan(observe(run, ruined, 1)["reconstruction"])
    assert read_metrics(tmp_path, "test")[0]["reconstruction"] == "nan"
    assert not (tmp_path / "samples").exists()


@pytest.fixture
def report(run):
    """Tells what the steps of the autoencoder return; 4 steps an epoch, a log line every 2nd."""
    phase, span = schedule(run.config, 256)[0]
    return Reporter(run, phase, span, 0)


SUMS = dict.fromkeys(METRICS, np.float32(2.0))


def test_every_so_many_steps_the_metrics_are_logged(report, tmp_path):
    for step in (1, 2, 3, 4):
        report(step, METRICS_OF_A_STEP | {"total": float(step)}, SUMS)
    lines = read_metrics(tmp_path, "autoencoder_step")
    assert [(line["step"], line["total"]) for line in lines] == [(2, 2.0), (4, 4.0)]
    with pytest.raises(DivergedError, match=r"epoch 2 \(step 6\)"):
        report(6, METRICS_OF_A_STEP | {"total": np.nan}, SUMS)


def test_without_a_terminal_there_is_a_line_now_and_then(run, report, monkeypatch):
    for seconds, lines in ((1e9, 0), (-1, 1)):
        monkeypatch.setattr(monitor, "MIN_SECONDS_BETWEEN_LINES", seconds)
        report(2, METRICS_OF_A_STEP, SUMS)
        assert len(run.lines) == lines
    (line,) = run.lines
    assert line.startswith("step 2/8  reconstruction 0.5  adversary 0.5")


def test_an_epoch_has_its_means_and_a_line(run, report, tmp_path):
    report(4, METRICS_OF_A_STEP, SUMS)
    (line,) = read_metrics(tmp_path, "autoencoder")
    rate = line.pop("images_per_s")
    assert rate > 0
    assert line == {"kind": "autoencoder", "step": 4, "epoch": 1, **dict.fromkeys(METRICS, 0.5)}
    shown = "reconstruction 0.5  adversary 0.5  adversary accuracy 50.0%  content accuracy 50.0%  swap accuracy 50.0%"
    assert run.lines == [f"autoencoder 1/2  {shown}  lambda 0.5  {rate:,.0f} images/s  00:00 left of this phase"]


def test_of_many_epochs_about_twenty_have_a_line(run):
    phase, span = schedule(run.config, 256)[0]
    report = Reporter(run, phase, dataclasses.replace(span, epochs=100), 0)
    for epoch in range(1, 101):
        report(4 * epoch, METRICS_OF_A_STEP, SUMS)
    assert len(run.lines) == 20
    assert len(read_metrics(run.folder, "autoencoder")) == 100
