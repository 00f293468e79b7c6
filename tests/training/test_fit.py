import dataclasses
import shutil
import signal
import sys
import threading

import jax
import numpy as np
import pytest

from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import pixel_statistics
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import schedule as schedule_module
from infoae_jax.training.autoencoder import AUTOENCODER, METRICS
from infoae_jax.training.fit import build_model, fit
from tests.small_training import after_step, assert_identical, interrupt, share_far


def test_a_run_leaves_what_it_promises(tiny_config, tmp_path, capsys):
    result = fit(tiny_config, tmp_path / "run")
    assert result.finished
    assert int(result.state.step) == 8
    for name, value in pixel_statistics(load_splits(tiny_config.data).train.images).items():
        np.testing.assert_array_equal(result.state.variables["constants"][name], value)
    lines = read_metrics(tmp_path / "run")
    assert [line["kind"] for line in lines if line["kind"] != "autoencoder_step"] == [
        *("start", "test", "autoencoder", "test", "autoencoder", "test", "end")
    ]
    for line in read_metrics(tmp_path / "run", "autoencoder"):
        assert line["images_per_s"] > 0
        assert set(METRICS) <= set(line)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "autoencoder_step")] == [2, 4, 6, 8]
    start = lines[0]
    assert start["device"] == "4 x cpu"
    assert start["environment"]["jax"] == jax.__version__
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == ["epoch_0000.png", "epoch_0001.png", "epoch_0002.png"]
    printed = capsys.readouterr().out
    assert "autoencoder, phase 1 of 1: preparing" in printed
    assert "autoencoder 1/2  reconstruction" in printed
    assert "images/s" in printed


@pytest.mark.parametrize(("number", "which"), [(3, signal.SIGINT), (4, signal.SIGTERM), (7, signal.SIGUSR2)])
def test_a_stopped_and_resumed_run_is_the_same_run(whole, tiny_config, tmp_path, number, which):
    handler = signal.getsignal(signal.SIGINT)
    with after_step(number, interrupt(which)):
        stopped = fit(tiny_config, tmp_path / "run")
    assert not stopped.finished
    assert int(stopped.state.step) == number
    resumed = fit(tiny_config, tmp_path / "run")
    assert resumed.finished
    assert_identical(resumed.state, whole.state)
    for kind in ("autoencoder", "test"):
        mine, theirs = (read_metrics(tmp_path / name, kind) for name in ("run", "whole"))
        for line in mine + theirs:
            line.pop("images_per_s", None)
        assert mine == theirs
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_crash_costs_at_most_the_steps_since_the_last_checkpoint(whole, tiny, tmp_path):
    tiny.checkpoint.every_seconds = 0.0
    tiny.log.every_steps = 3
    config = parse(tiny)

    def crash(_):
        raise RuntimeError("power cut")

    with after_step(8, crash), pytest.raises(RuntimeError, match="power cut"):
        fit(config, tmp_path / "run")
    resumed = fit(config, tmp_path / "run")
    assert read_metrics(tmp_path / "run", "start")[-1]["step"] == 7
    assert_identical(resumed.state, whole.state)


def test_resume_after_a_damaged_checkpoint(whole, tiny, tmp_path):
    tiny.checkpoint.every_seconds = 0.0
    tiny_config = parse(tiny)
    with after_step(6, interrupt(signal.SIGINT)):
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


def test_a_full_disk_is_told_in_a_sentence_and_costs_nothing_that_was_saved(whole, tiny_config, tmp_path, monkeypatch):
    def save(self, step, state):
        if step == 8:
            raise OSError(28, "No space left on device")
        return saved(self, step, state)

    saved = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(
            UserError, match=r"could not be written .*No space left.*resumes from the last checkpoint, if there is"
        ):
            fit(tiny_config, tmp_path / "run")
    assert_identical(fit(tiny_config, tmp_path / "run").state, whole.state)


def test_the_step_is_traced_once(tiny_config, tmp_path, monkeypatch, new_programs):
    traces = []
    traced = dataclasses.replace(AUTOENCODER, step=lambda *arguments: traces.append(1) or AUTOENCODER.step(*arguments))
    monkeypatch.setattr(schedule_module, "PHASES", (traced,))
    fit(tiny_config, tmp_path / "run")
    assert len(traces) == 1


@pytest.mark.slow
def test_a_run_that_differs_in_traced_values_compiles_nothing(tiny, tmp_path):
    """Neither a step of any phase, nor the start, the latents, the test metrics and the samples."""
    tiny.model.couplings, tiny.refine.epochs, tiny.train.swap_weight = 2, 1, 0.1
    fit(parse(tiny), tmp_path / "first")
    tiny.train.update(seed=1, lambda_adv=0.02, lambda_ramp=0.7, learning_rate=2e-3)
    tiny.alignment.update(learning_rate=1e-3, style_weight=0.2, lambda_adv=0.1)
    tiny.refine.update(learning_rate=2e-3, style_weight=0.01, swap_weight=0.02)
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


@pytest.mark.slow
def test_trains_in_half_precision(whole, tiny, tmp_path):
    tiny.train.dtype = "bfloat16"
    result = fit(parse(tiny), tmp_path / "half")
    assert {str(x.dtype) for x in jax.tree.leaves(result.state.variables["params"])} == {"float32"}
    half, full = (read_metrics(tmp_path / name, "test")[-1] for name in ("half", "whole"))
    assert half["reconstruction"] != full["reconstruction"]
    assert half["reconstruction"] == pytest.approx(full["reconstruction"], rel=0.1)


def test_one_device_and_four_give_the_same_losses(whole, tiny_config, tmp_path):
    result = fit(tiny_config, tmp_path / "one", devices=jax.devices()[:1])
    one, four = (read_metrics(tmp_path / name, "autoencoder_step") for name in ("one", "whole"))
    for mine, theirs in zip(one, four, strict=True):
        for name in ("reconstruction", "adversary", "content"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-3)
    assert share_far(result.state.variables["params"], whole.state.variables["params"], 1e-4) < 0.01


def test_input_that_cannot_work(whole, tiny, tmp_path):
    tiny.train.batch_size = 30
    with pytest.raises(UserError, match="batch_size is 30, but must be a multiple of the 4 devices"):
        fit(parse(tiny), tmp_path / "run")
    tiny.train.batch_size = 512
    with pytest.raises(UserError, match="batch_size is 512, but the training split has only 256 images"):
        fit(parse(tiny), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    tiny.train.batch_size, tiny.model.bottleneck = 64, 7
    with pytest.raises(UserError, match=r"model\.bottleneck: 32 -> 7"):
        fit(parse(tiny), tmp_path / "whole")


def test_more_steps_than_32_bits_count_are_refused(tiny):
    tiny.train.batch_size, tiny.train.epochs = 4, 1_000_000
    config = parse(tiny)
    splits = load_splits(config.data)
    images = np.broadcast_to(np.uint8(0), (10_000, 32, 32, 3))
    train = dataclasses.replace(splits.train, images=images, labels=np.zeros(10_000, np.int32))
    with pytest.raises(UserError, match=r"epochs is 1000000, .* 2500000000 steps"):
        build_model(config, splits._replace(train=train))


def test_tensorboard_gets_the_same_metrics(tiny, tmp_path, monkeypatch):
    tiny.log.tensorboard = True
    fit(parse(tiny), tmp_path / "run")
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"autoencoder/reconstruction" in file.read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="tensorboardX is not installed"):
        fit(parse(tiny), tmp_path / "other")


def test_fit_outside_the_main_thread_and_on_raw_pixels(tiny, tmp_path):
    tiny.train.standardise = False
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(parse(tiny), tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].finished
    constants = results[0].state.variables["constants"]
    assert (constants["pixel_mean"].max(), constants["pixel_deviation"]) == (0, 1)
