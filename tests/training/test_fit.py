import dataclasses
import os
import shutil
import signal
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import DivergedError, UserError
from infoae_jax.inference.load import load
from infoae_jax.runs.folder import read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import fit as fit_module
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.autoencoder import train_step
from infoae_jax.training.fit import Checkpoints, build, fit, make_refine_stepper
from infoae_jax.training.state import METRICS


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def assert_identical(a, b):
    for mine, theirs in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def after_step(monkeypatch, number, action):
    """Calls `action` after the step with this number (counted from 1 over the whole training)."""
    make = fit_module.make_stepper

    def make_stepper(*args):
        take_steps = make(*args)

        def wrapped(state, at, most):
            result = take_steps(state, at, most)
            if at + result[2] == number:
                action()
            return result

        return wrapped

    monkeypatch.setattr(fit_module, "make_stepper", make_stepper)


@pytest.fixture(scope="module")
def trained_once(cache, tmp_path_factory):
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    folder = tmp_path_factory.mktemp("trained_once") / "run"
    return fit(parse(values), folder), folder


@pytest.fixture
def whole(trained_once, tmp_path):
    """What the training of `tiny_config` gives, and its run folder as `tmp_path / "whole"`."""
    result, folder = trained_once
    shutil.copytree(folder, tmp_path / "whole")
    return result


def test_a_run_leaves_what_it_promises(tiny_config, tmp_path, capsys):
    result = fit(tiny_config, tmp_path / "run")
    assert result.finished
    assert int(result.state.step) == 8
    lines = read_metrics(tmp_path / "run")
    assert [line["kind"] for line in lines if line["kind"] not in ("step",)] == [
        *("start", "test", "epoch", "test", "epoch", "test", "end")
    ]
    for line in read_metrics(tmp_path / "run", "epoch"):
        assert line["images_per_s"] > 0
        assert set(METRICS) <= set(line)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "step")] == [2, 4, 6, 8]
    start = lines[0]
    assert start["device"] == "4 x cpu"
    assert start["environment"]["jax"] == jax.__version__
    assert sorted(p.name for p in (tmp_path / "run" / "samples").iterdir()) == [
        "epoch_0000.png",
        "epoch_0001.png",
        "epoch_0002.png",
    ]
    with Image.open(tmp_path / "run" / "samples" / "epoch_0002.png") as picture:
        assert picture.size == (2 * (11 * 34 - 2 + 8), 2 * (10 * 34 - 2))
    printed = capsys.readouterr().out
    assert "1/2  mse" in printed
    assert "images/s" in printed


def test_sample_pictures_show_the_trained_models_swaps(whole, tiny_config, tmp_path):
    test = load_splits(tiny_config.data).test
    info = read_info(tmp_path / "whole")
    model = build(tiny_config.model, info.image_shape, 10)
    row = np.flatnonzero(test.labels == 4)[0]
    source = np.repeat(test.images[row : row + 1], 10, axis=0)
    swaps = np.asarray(model.apply({"params": whole.state.params}, source, np.arange(10), method="transfer"))
    with Image.open(tmp_path / "whole" / "samples" / "epoch_0002.png") as picture:
        shown = np.asarray(picture)[::2, ::2]
    line = shown[4 * 34 : 4 * 34 + 32]
    np.testing.assert_array_equal(line[:, :32], test.images[row])
    expected = np.rint(np.clip(swaps[7], 0, 1) * 255)
    np.testing.assert_allclose(line[:, 8 * 34 + 8 : 8 * 34 + 40], expected, atol=1)


def test_test_figures_are_means_over_the_whole_split(whole, tiny_config, tmp_path):
    test = load_splits(tiny_config.data).test
    model = build(tiny_config.model, (32, 32, 3), 10)
    variables = {"params": whole.state.params}
    z = model.apply(variables, test.images, method="encode")
    redrawn = np.asarray(model.apply(variables, z, test.labels, method="decode"))
    line = read_metrics(tmp_path / "whole", "test")[-1]
    assert line["reconstruction"] == pytest.approx(np.mean((redrawn - test.images / 255.0) ** 2), rel=1e-4)
    read = np.asarray(model.apply(variables, test.images, method="classify")).argmax(axis=1)
    assert line["content_accuracy"] == pytest.approx(np.mean(read == test.labels))


@pytest.mark.parametrize("number", [3, 4, 7])
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_and_resumed_run_is_the_same_run(whole, tiny_config, tmp_path, monkeypatch, number, which):
    with monkeypatch.context() as patch:
        after_step(patch, number, lambda: os.kill(os.getpid(), which))
        stopped = fit(tiny_config, tmp_path / "run")
    assert not stopped.finished
    assert int(stopped.state.step) == number
    resumed = fit(tiny_config, tmp_path / "run")
    assert resumed.finished
    assert_identical(resumed.state, whole.state)
    for kind in ("epoch", "test"):
        mine, theirs = (read_metrics(tmp_path / name, kind) for name in ("run", "whole"))
        for line in mine + theirs:
            line.pop("images_per_s", None)
        assert mine == theirs
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def aligned(tiny):
    tiny.model.couplings, tiny.refine.epochs = 2, 1
    return parse(tiny)


def test_later_phases_follow_and_are_the_same_when_stopped_in_them(aligned, tmp_path, monkeypatch):
    """8 steps of the autoencoder, 8 of the alignment, 4 of the refinement: stopped between and within phases."""
    whole = fit(aligned, tmp_path / "whole")
    assert whole.finished
    assert int(whole.state.step) == 20
    assert int(whole.state.opt_state["autoencoder"][0].count) == 4  # begun anew
    assert [line["epoch"] for line in read_metrics(tmp_path / "whole", "align")] == [1, 2]
    assert [line["epoch"] for line in read_metrics(tmp_path / "whole", "refine")] == [1]
    assert read_metrics(tmp_path / "whole")[-1]["kind"] == "end"
    pictures = sorted(path.name for path in (tmp_path / "whole" / "samples").iterdir())
    assert pictures[-3:] == ["epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]

    stops = {8: ("make_stepper", 8), 10: ("make_align_stepper", 2), 16: ("make_align_stepper", 6)}
    for number, (name, taken) in (stops | {17: ("make_refine_stepper", 1)}).items():
        with monkeypatch.context() as patch:
            after_calls(patch, name, taken, lambda: os.kill(os.getpid(), signal.SIGINT))
            stopped = fit(aligned, tmp_path / "run")
        assert not stopped.finished
        assert int(stopped.state.step) == number
    resumed = fit(aligned, tmp_path / "run")
    assert resumed.finished
    assert_identical(resumed.state, whole.state)
    for kind in ("align", "refine"):
        assert read_metrics(tmp_path / "run", kind) == read_metrics(tmp_path / "whole", kind)
    before = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert fit(aligned, tmp_path / "whole").finished
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == before


def after_calls(monkeypatch, stepper, number, action):
    make = getattr(fit_module, stepper)

    def make_wrapped(*args):
        take, taken = make(*args), []

        def wrapped(*inputs):
            taken.append(None)
            result = take(*inputs)
            if len(taken) == number:
                action()
            return result

        return wrapped

    monkeypatch.setattr(fit_module, stepper, make_wrapped)


def test_aligned_model_takes_the_class_from_the_image_and_redraws_as_without(aligned, tmp_path):
    fit(aligned, tmp_path / "run")
    trained = load(tmp_path / "run")
    model, variables = trained.module, trained.variables
    test = load_splits(aligned.data).test

    def call(method, *args):
        return np.asarray(model.apply(variables, *args, method=method))

    read = call("classify", test.images).argmax(axis=1)
    z, u = call("encode_raw", test.images), call("encode", test.images)
    assert np.abs(u - z).max() > 0.1
    np.testing.assert_array_equal(u, call("encode", test.images, read))
    assert not np.array_equal(u, call("encode", test.images, test.labels))
    np.testing.assert_allclose(call("decode", u, read), call("decode_raw", z, read), atol=1e-3)


@pytest.mark.slow
def test_alignment_that_diverges_is_stopped_with_advice(tiny, tmp_path):
    tiny.model.couplings, tiny.alignment.learning_rate, tiny.alignment.style_weight = 2, 1.0, 1e6
    tiny.alignment.lambda_adv, tiny.alignment.epochs, tiny.model.reference_couplings = 1e6, 50, 10
    with pytest.raises(DivergedError, match="couplings=0"):
        fit(parse(tiny), tmp_path / "run")


def test_a_last_step_that_ruins_the_decoder_is_not_saved(aligned, tmp_path, monkeypatch):
    make, taken = make_refine_stepper, []

    def make_poisoned(*args):
        take = make(*args)

        def poisoned(*inputs):
            state, *rest = take(*inputs)
            taken.append(None)
            if len(taken) == 4:
                state = dataclasses.replace(state, params=jax.tree.map(lambda x: x * np.nan, state.params))
            return state, *rest

        return poisoned

    monkeypatch.setattr(fit_module, "make_refine_stepper", make_poisoned)
    with pytest.raises(DivergedError, match=r"(?s)'refine' diverged in its epoch 1 \(step 20\).*refine\.epochs=0"):
        fit(aligned, tmp_path / "run")
    assert len(taken) == 4
    assert "20" not in [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert read_metrics(tmp_path / "run")[-1]["kind"] == "diverged"


def test_a_crash_costs_at_most_the_steps_since_the_last_checkpoint(whole, tiny, tmp_path, monkeypatch):
    tiny.checkpoint.every_steps = 3
    config = parse(tiny)

    def crash():
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        after_step(patch, 8, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(config, tmp_path / "run")
    resumed = fit(config, tmp_path / "run")
    assert read_metrics(tmp_path / "run", "start")[-1]["step"] == 6
    assert_identical(resumed.state, whole.state)


def test_resume_after_a_damaged_checkpoint(whole, tiny_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        after_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGINT))
        fit(tiny_config, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "6" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[::-1])
    with pytest.warns(UserWarning, match="step 6 .* is damaged"):
        resumed = fit(tiny_config, tmp_path / "run")
    assert read_metrics(tmp_path / "run", "start")[-1]["step"] == 4
    assert_identical(resumed.state, whole.state)


def test_a_finished_run_that_lost_its_last_checkpoint_is_finished_again(whole, tiny_config, tmp_path):
    """As after a kill between the last line of the log and the end of the last save."""
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "8")
    again = fit(tiny_config, tmp_path / "whole")
    assert int(again.state.step) == 8
    assert_identical(again.state, whole.state)


def test_a_finished_run_is_left_alone(whole, tiny_config, tmp_path):
    before = (tmp_path / "whole" / "samples" / "epoch_0002.png").stat().st_mtime_ns
    again = fit(tiny_config, tmp_path / "whole")
    assert again.finished
    assert_identical(again.state, whole.state)
    assert (tmp_path / "whole" / "samples" / "epoch_0002.png").stat().st_mtime_ns == before


def test_the_step_is_traced_once(tiny_config, tmp_path, monkeypatch, new_programs):
    traces = []
    original = train_step
    monkeypatch.setattr(stepper_module, "train_step", lambda *args, **kw: traces.append(1) or original(*args, **kw))
    fit(tiny_config, tmp_path / "run")
    assert len(traces) == 1


@pytest.mark.slow
def test_a_run_that_differs_in_traced_values_compiles_nothing(tiny, tmp_path):
    """Neither a step of any phase, nor the start, the latents, the test figures and the pictures."""
    tiny.model.couplings, tiny.refine.epochs = 2, 1
    fit(parse(tiny), tmp_path / "first")
    tiny.train.update(seed=1, lambda_adv=0.02, lambda_ramp=0.7, learning_rate=2e-3)
    tiny.alignment.update(learning_rate=1e-3, style_weight=0.2, lambda_adv=0.1)
    tiny.refine.update(learning_rate=2e-3, style_weight=0.01, content_weight=0.02)
    compiled = []

    def note(event, seconds, **about):
        if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
            compiled.append((event, about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        second = fit(parse(tiny), tmp_path / "second")
        assert compiled == []
        tiny.model.bottleneck = 7  # the listener works
        fit(parse(tiny), tmp_path / "third")
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert second.finished


@pytest.mark.parametrize("where", ["host", "device"])
def test_no_transfer_within_a_step_but_the_batch_on_the_host_path(tiny, tmp_path, monkeypatch, where):
    """With the data on the device, neither a step nor the order of the next epoch moves anything."""
    tiny.train.data_on = where
    make = fit_module.make_stepper
    blocked = []

    def make_stepper(*args):
        take_steps = make(*args)

        def guarded(state, at, most):
            try:
                with jax.transfer_guard("disallow_explicit"):
                    return take_steps(state, at, most)
            except jax.errors.JaxRuntimeError as error:
                assert "Disallowed" in str(error)  # noqa: PT017
                blocked.append(at)
                return take_steps(state, at, most)

        return guarded

    monkeypatch.setattr(fit_module, "make_stepper", make_stepper)
    fit(parse(tiny), tmp_path / "run")
    assert blocked == ([] if where == "device" else list(range(8)))


def test_device_and_host_path_give_the_same_result(whole, tiny, tmp_path):
    tiny.train.data_on = "device"
    result = fit(parse(tiny), tmp_path / "device")
    for mine, theirs in zip(leaves(result.state.params), leaves(whole.state.params), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.slow
def test_several_steps_a_call_leave_the_same_run(whole, tiny, tmp_path, monkeypatch):
    """Log lines, checkpoints and pictures come at the same steps; 4 steps an epoch, a log line every 2nd."""
    monkeypatch.setattr(stepper_module, "_NO_SCAN", ())
    saved, taken = [], []
    save, make = Checkpoints.save, fit_module.make_stepper
    monkeypatch.setattr(Checkpoints, "save", lambda self, at, state: saved.append(at) or save(self, at, state))

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


def test_trains_in_half_precision(whole, tiny, tmp_path):
    tiny.train.dtype = "bfloat16"
    result = fit(parse(tiny), tmp_path / "half")
    assert {str(x.dtype) for x in jax.tree.leaves(result.state.params)} == {"float32"}
    half, full = (read_metrics(tmp_path / name, "test")[-1] for name in ("half", "whole"))
    assert half["reconstruction"] != full["reconstruction"]
    assert half["reconstruction"] == pytest.approx(full["reconstruction"], rel=0.1)


def test_one_device_and_four_give_the_same_losses(whole, tiny_config, tmp_path):
    result = fit(tiny_config, tmp_path / "one", devices=jax.devices()[:1])
    one, four = (read_metrics(tmp_path / name, "step") for name in ("one", "whole"))
    for mine, theirs in zip(one, four, strict=True):
        for name in ("reconstruction", "adversary", "content", "gradient_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3)
    # Adam turns a gradient's sign into a full step where the gradient is almost zero, so a few weights may differ.
    pairs = zip(leaves(result.state.params), leaves(whole.state.params), strict=True)
    assert np.mean(np.concatenate([np.abs(a - b).ravel() for a, b in pairs]) > 1e-4) < 0.01


def test_divergence_stops_with_epoch_values_and_advice(tiny, tmp_path):
    tiny.model.latent = "unbounded"
    tiny.train.update(lambda_adv=100.0, lambda_schedule="constant", learning_rate=0.5, epochs=50)
    with pytest.raises(DivergedError, match=r"(?s)diverged in epoch \d+ \(step \d+\).*lambda_adv.*latent=ball"):
        fit(parse(tiny), tmp_path / "run")
    last = read_metrics(tmp_path / "run")[-1]
    assert last["kind"] == "diverged"


def test_nothing_unsound_is_saved(tiny, tmp_path, monkeypatch, new_programs):
    tiny.log.every_steps = 1000  # so that only the look before saving can notice
    original = train_step

    def poisoned(model, config, state, *args, **options):
        state, metrics = original(model, config, state, *args, **options)
        bad = jax.numpy.where(state.step == 8, jax.numpy.nan, 1.0)
        return state, {**metrics, "gradient_norm": metrics["gradient_norm"] * bad}

    monkeypatch.setattr(stepper_module, "train_step", poisoned)
    with pytest.raises(DivergedError, match="epoch 2 .step 8.: gradient_norm became infinite or not a number"):
        fit(parse(tiny), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]


def test_input_that_cannot_work(tiny, tmp_path):
    tiny.train.batch_size = 30
    with pytest.raises(UserError, match="batch_size is 30, but must be a multiple of the 4 devices"):
        fit(parse(tiny), tmp_path / "run")
    tiny.train.batch_size = 512
    with pytest.raises(UserError, match="batch_size is 512, but the training split has only 256 images"):
        fit(parse(tiny), tmp_path / "run")
    tiny.train.batch_size = 64
    fit(dataclasses.replace(parse(tiny), log=dataclasses.replace(parse(tiny).log, sample_epochs=())), tmp_path / "run")
    tiny.model.bottleneck = 7
    with pytest.raises(UserError, match=r"model\.bottleneck: 32 -> 7"):
        fit(parse(tiny), tmp_path / "run")


def test_tensorboard_gets_the_same_figures(tiny, tmp_path, monkeypatch):
    tiny.log.tensorboard = True
    fit(parse(tiny), tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"epoch/reconstruction" in file.read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="tensorboardX is not installed"):
        fit(parse(tiny), tmp_path / "other")


def test_fit_outside_the_main_thread(tiny_config, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tiny_config, tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].finished
