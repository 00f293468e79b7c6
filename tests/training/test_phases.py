import dataclasses
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import DivergedError
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import fit as fit_module
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.fit import build_model, fit
from infoae_jax.training.phases import steps_until_event
from tests.small_training import after_step, assert_identical, call, interrupt


def test_steps_until_the_next_event(tiny):
    """Of every 3rd step, which is logged, every 5th, which is saved, and every 7th, which ends an epoch."""
    tiny.log.every_steps, tiny.checkpoint.every_steps = 3, 5
    assert [steps_until_event(parse(tiny), step, 7) for step in range(8)] == [3, 2, 1, 2, 1, 1, 1, 2]
    tiny.checkpoint.every_steps = 0
    assert [steps_until_event(parse(tiny), step, 7) for step in range(8)] == [3, 2, 1, 3, 2, 1, 1, 2]


def aligned_config(cache):
    """8 steps of the autoencoder, 8 of the alignment, 4 of the refinement."""
    values = rendered.get_config("tiny")
    values.data.cache_dir, values.model.couplings, values.refine.epochs = str(cache), 2, 1
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
    assert int(whole.state.opt_state["autoencoder"][0].count) == 4  # begun anew
    assert [line["epoch"] for line in read_metrics(folder, "align")] == [1, 2]
    assert [line["epoch"] for line in read_metrics(folder, "refine")] == [1]
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
    for kind in ("align", "refine"):
        assert read_metrics(tmp_path / "run", kind) == read_metrics(folder, kind)


def test_an_aligned_model_takes_the_class_from_the_image_and_decodes_as_without(aligned):
    config, whole, _ = aligned
    splits, params = load_splits(config.data), whole.state.params
    model, images = build_model(config, splits), splits.test.images
    predicted = np.asarray(call(model, params, "classify", images)).argmax(axis=1)
    z, u = (np.asarray(call(model, params, method, images)) for method in ("encode_raw", "encode"))
    assert np.abs(u - z).max() > 0.1
    np.testing.assert_array_equal(u, call(model, params, "encode", images, predicted))
    assert not np.array_equal(u, call(model, params, "encode", images, splits.test.labels))
    without = call(model, params, "decode_raw", z, predicted)
    np.testing.assert_allclose(call(model, params, "decode", u, predicted), without, atol=1e-3)


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

    def ruin(answer):
        state, metrics = answer
        return dataclasses.replace(state, params=jax.tree.map(lambda x: x * np.nan, state.params)), metrics

    with after_step(20, ruin), pytest.raises(DivergedError, match=r"(?s)epoch 1 \(step 20\) of phase 'refine'"):
        fit(config, run)
    assert read_metrics(run, "start")[-1]["step"] == 16
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["16"]
    assert read_metrics(run)[-1]["kind"] == "diverged"


def test_divergence_stops_with_epoch_values_and_advice(tiny, tmp_path):
    tiny.model.latent = "unbounded"
    tiny.train.update(lambda_adv=100.0, lambda_schedule="constant", learning_rate=0.5, epochs=50)
    with pytest.raises(DivergedError, match=r"(?s)diverged in epoch \d+ \(step \d+\).*lambda_adv.*latent=ball"):
        fit(parse(tiny), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["kind"] == "diverged"


def test_nothing_unsound_is_saved(tiny, tmp_path):
    tiny.log.every_steps = 1000  # so that only the check before saving can notice

    def poison(answer):
        state, metrics, taken = answer
        return state, {**metrics, "gradient_norm": jnp.float32(jnp.nan)}, taken

    with (
        after_step(8, poison),
        pytest.raises(DivergedError, match=r"epoch 2 .step 8.* gradient_norm became infinite or not a number"),
    ):
        fit(parse(tiny), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]


@pytest.mark.slow
def test_several_steps_a_call_leave_the_same_run(whole, tiny, tmp_path, monkeypatch):
    """Log lines, checkpoints and samples come at the same steps; 4 steps an epoch, a log line every 2nd."""
    monkeypatch.setattr(stepper_module, "is_cpu", lambda: False)
    saved, taken = [], []
    save, make = Checkpoints.save, fit_module.make_stepper
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: saved.append(step) or save(self, step, state))

    def make_stepper(*args):
        take_steps = make(*args)

        def noting(*call):
            result = take_steps(*call)
            taken.append(result[2])
            return result

        return noting

    monkeypatch.setattr(fit_module, "make_stepper", make_stepper)
    tiny.train.update(data_on="device", steps_per_call=2)
    tiny.checkpoint.every_steps = 3
    result = fit(parse(tiny), tmp_path / "several")
    assert int(result.state.step) == 8
    assert taken == [2, 1, 1, 2, 2]
    assert saved == [3, 4, 6, 8]
    several, single = (read_metrics(tmp_path / name) for name in ("several", "whole"))
    assert [(line["kind"], line["step"]) for line in several] == [(line["kind"], line["step"]) for line in single]
    for mine, theirs in zip(several, single, strict=True):
        if mine["kind"] in ("step", "epoch", "test"):
            assert mine["reconstruction"] == pytest.approx(theirs["reconstruction"], rel=1e-3)
