import shutil
import signal

import jax
import numpy as np
import optax
import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import DivergedError
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.fit import build_model, fit
from infoae_jax.training.run import Run
from infoae_jax.training.stepper import Stepper
from tests.small_training import after_step, assert_identical, call, interrupt


def aligned_config(cache):
    """8 steps of the autoencoder, 8 of the alignment, 4 of the refinement."""
    values = rendered.get_config("tiny")
    values.data.cache_dir, values.model.couplings, values.refine.epochs = str(cache), 2, 1
    values.train.swap_weight = 0.1
    values.checkpoint.every_seconds = 1e6  # only at the ends of phases, however slow the machine is
    return parse(values)


@pytest.fixture(scope="module")
def aligned(cache, tmp_path_factory):
    """A configuration with all phases, what `fit` returns for it, and its run folder; not to change."""
    folder = tmp_path_factory.mktemp("aligned") / "run"
    config = aligned_config(cache)
    return config, fit(config, folder), folder


def test_later_phases_follow(aligned, tmp_path):
    config, whole, folder = aligned
    assert whole.finished
    assert int(whole.state.step) == 20
    assert int(optax.tree_utils.tree_get(whole.state.optimizers["refinement"], "count")) == 4
    assert [line["epoch"] for line in read_metrics(folder, "alignment")] == [1, 2]
    assert [line["epoch"] for line in read_metrics(folder, "refinement")] == [1]
    assert read_metrics(folder)[-1]["kind"] == "end"
    samples = sorted(path.name for path in (folder / "samples").iterdir())
    assert samples[-3:] == ["epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]
    before = (folder / "metrics.jsonl").read_bytes()
    assert fit(config, folder).finished
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_they_are_the_same_when_stopped_between_and_within_them(aligned, tmp_path):
    config, whole, folder = aligned
    for number in (8, 10, 16, 17):
        with after_step(number, interrupt(signal.SIGINT)):
            stopped = fit(config, tmp_path / "run")
        assert not stopped.finished
        assert int(stopped.state.step) == number
    resumed = fit(config, tmp_path / "run")
    assert resumed.finished
    assert_identical(resumed.state, whole.state)
    for kind in ("alignment", "refinement"):
        mine, theirs = (read_metrics(path, kind) for path in (tmp_path / "run", folder))
        for line in mine + theirs:
            del line["images_per_s"]
        assert mine == theirs


def test_an_aligned_model_takes_the_class_from_the_image_and_decodes_as_without(aligned):
    config, whole, _ = aligned
    splits, variables = load_splits(config.data), whole.state.variables
    model, images = build_model(config, splits), splits.test.images
    predicted = np.asarray(call(model, variables, "classify", images)).argmax(axis=1)
    z, u = (np.asarray(call(model, variables, method, images)) for method in ("encode_raw", "encode"))
    assert np.abs(u - z).max() > 0.1
    np.testing.assert_array_equal(u, call(model, variables, "encode", images, predicted))
    assert not np.array_equal(u, call(model, variables, "encode", images, splits.test.labels))
    without = call(model, variables, "decode_raw", z, predicted)
    np.testing.assert_allclose(call(model, variables, "decode", u, predicted), without, atol=1e-3)


@pytest.mark.slow
def test_alignment_that_diverges_is_stopped_with_advice(tiny, tmp_path):
    tiny.model.couplings, tiny.alignment.learning_rate, tiny.alignment.style_weight = 2, 1.0, 1e6
    tiny.alignment.lambda_adv, tiny.alignment.epochs, tiny.model.reference_couplings = 1e6, 50, 10
    with pytest.raises(DivergedError, match="couplings=0"):
        fit(parse(tiny), tmp_path / "run")


def test_a_last_step_that_ruins_the_decoder_is_not_saved(aligned, tmp_path):
    config, _, folder = aligned
    run = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "20")  # the refinement is left

    def ruin(stepper):
        stepper._carry = jax.tree.map(lambda x: x * np.nan if x.ndim else x, stepper._carry)

    with after_step(20, ruin), pytest.raises(DivergedError, match=r"(?s)epoch 1 \(step 20\) of the refinement"):
        fit(config, run)
    assert read_metrics(run, "start")[-1]["step"] == 16
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["16"]
    assert read_metrics(run)[-1]["kind"] == "diverged"


def test_divergence_stops_with_epoch_values_and_advice(tiny, tmp_path):
    tiny.model.latent = "unbounded"
    tiny.train.update(lambda_adv=100.0, lambda_schedule="constant", learning_rate=0.5, epochs=50)
    with pytest.raises(DivergedError, match=r"(?s)diverged in epoch \d+ \(step \d+\).*lambda_adv.*latent=sphere"):
        fit(parse(tiny), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["kind"] == "diverged"


def test_nothing_unsound_is_saved(tiny, tmp_path):
    tiny.log.every_steps, tiny.checkpoint.every_seconds = 1000, 0.0  # so that only the check before saving can notice

    def poison(stepper):
        return {"content": np.float32(np.nan)}, {}

    with (
        after_step(8, poison),
        pytest.raises(DivergedError, match=r"epoch 2 .step 8.* content became infinite or not a number"),
    ):
        fit(parse(tiny), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]


def test_accelerators_take_the_steps_between_events_in_one_call(whole, tiny, tmp_path, monkeypatch):
    """Log lines, checkpoints and samples come at the same steps; 4 steps an epoch, a log line after 3 of them."""
    monkeypatch.setattr(stepper_module, "is_resident", lambda *arguments: True)
    saved, calls, save, take = [], [], Checkpoints.save, Stepper.take
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: saved.append(step) or save(self, step, state))
    monkeypatch.setattr(Stepper, "take", lambda self, step, n: calls.append(n) or take(self, step, n))
    tiny.checkpoint.every_seconds, tiny.log.every_steps = 0.0, 3
    result = fit(parse(tiny), tmp_path / "several")
    assert int(result.state.step) == 8
    assert calls == [3, 1, 3, 1]  # two in each epoch
    assert saved == [3, 4, 7, 8]
    several, single = (read_metrics(tmp_path / name) for name in ("several", "whole"))
    for kind in ("autoencoder", "test"):
        mine, theirs = ([line for line in lines if line["kind"] == kind] for lines in (several, single))
        for line, its in zip(mine, theirs, strict=True):
            assert line["step"] == its["step"]
            assert line["reconstruction"] == pytest.approx(its["reconstruction"], rel=1e-3)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [2, 4, 6, 8]), (1e6, [8])])
def test_checkpoints_are_made_by_the_clock_and_at_the_end_of_a_phase(tiny, tmp_path, monkeypatch, seconds, expected):
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: saved.append(step) or save(self, step, state))
    tiny.checkpoint.every_seconds = seconds
    fit(parse(tiny), tmp_path / "run")
    assert saved == expected


def test_later_phases_are_observed_at_the_same_epochs_and_at_their_end(aligned):
    """Epochs 0, 1 and 2 are asked for; 2, 4 and 5 end a phase."""
    _, _, folder = aligned
    assert [line["epoch"] for line in read_metrics(folder, "test")] == [0, 1, 2, 4, 5]


def test_a_signal_that_comes_while_a_phase_is_saved_ends_before_the_next(aligned, tmp_path, monkeypatch):
    def save(run, state):
        saved(run, state)
        signal.raise_signal(signal.SIGTERM)

    saved = Run.save
    monkeypatch.setattr(Run, "save", save)
    stopped = fit(aligned[0], tmp_path / "run")
    assert (stopped.finished, int(stopped.state.step)) == (False, 8)
    assert not read_metrics(tmp_path / "run", "alignment_step")
