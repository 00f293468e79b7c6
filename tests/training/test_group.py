"""Groups are forced here: on the CPU a sweep takes its trials one after the other."""

import dataclasses
import os
import shutil
import signal

import jax
import pytest

import infoae_jax
from configs import rendered
from infoae_jax.config import parse, to_dict
from infoae_jax.errors import BusyError, DivergedError
from infoae_jax.runs.folder import lock, read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training.fit import fit, fit_group
from infoae_jax.training.stepper import Stepper
from tests.small_training import assert_identical

# A group's program adds up in another order than that of a run alone.
TOLERANCE = 2e-3


def smallest(cache, later_phases=False, **train):
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    values.data.num_train, values.data.num_test, values.train.batch_size = 96, 32, 32  # 3 steps an epoch
    values.model.update(latent="unbounded")  # so that one of them can diverge
    values.model.update(filters=(2, 2, 2), hidden=8, adversary_hidden=8, bottleneck=4, coupling_hidden=8)
    values.log.update(every_steps=1, sample_epochs=(0,))
    values.checkpoint.every_seconds = 0.0
    if later_phases:
        values.model.couplings, values.refine.epochs, values.alignment.batch_size = 1, 1, 32
    values.train.update(train)
    return parse(values)


TRIALS = ({"seed": 0}, {"seed": 1, "lambda_adv": 0.5}, {"seed": 2, "learning_rate": 1e-2, "lambda_ramp": 0.2})


@pytest.fixture(scope="module")
def configs(cache):
    return [smallest(cache, **trial) for trial in TRIALS]


@pytest.fixture(scope="module")
def group(configs, tmp_path_factory):
    """Three runs on four devices."""
    folders = [tmp_path_factory.mktemp("group") / str(i) for i in range(3)]
    return folders, fit_group(configs, folders)


def metrics(folder, kind):
    timeless = [dict(line) for line in read_metrics(folder, kind)]
    for line in timeless:
        line.pop("images_per_s", None)
    return timeless


def assert_alike(folder, other):
    """The same lines, with the same metrics; the same samples and checkpoints."""
    lines, others = read_metrics(folder), read_metrics(other)
    assert [(line["kind"], line["step"]) for line in lines] == [(line["kind"], line["step"]) for line in others]
    for kind in ("autoencoder_step", "autoencoder", "test", "alignment", "refinement_step"):
        for mine, theirs in zip(metrics(folder, kind), metrics(other, kind), strict=True):
            assert mine.pop("kind") == theirs.pop("kind")
            if (
                kind == "refinement_step"
            ):  # latents hardly vary so early, and whitening them makes errors of rounding large
                assert mine.pop("style") == pytest.approx(theirs.pop("style"), rel=0.2)
            assert mine == pytest.approx(theirs, rel=TOLERANCE, abs=1e-5)
    for inside in ("samples", "checkpoints"):
        assert [p.name for p in sorted((folder / inside).iterdir())] == [
            p.name for p in sorted((other / inside).iterdir())
        ]


def test_a_run_in_a_group_is_as_alone(group, configs, tmp_path):
    folders, results = group
    assert all(result.finished and not result.stopped for result in results)
    for number, config in enumerate(configs):
        alone = fit(config, tmp_path / str(number), devices=jax.devices()[:1])
        assert int(results[number].state.step) == int(alone.state.step) == 6
        assert_alike(folders[number], tmp_path / str(number))
    seeds = [line["reconstruction"] for line in (metrics(folder, "autoencoder_step")[0] for folder in folders)]
    assert len(set(seeds)) == 3


def test_its_folder_is_a_run_like_any_other(group, configs):
    folders, results = group
    assert_identical(infoae_jax.load(folders[1]).variables, results[1].state.variables)
    assert read_info(folders[1]).config == configs[1]
    before = (folders[1] / "metrics.jsonl").read_bytes()
    assert fit(configs[1], folders[1]).finished  # nothing is left to do
    assert all(result.finished for result in fit_group(configs, folders))
    assert (folders[1] / "metrics.jsonl").read_bytes() == before


def test_a_stopped_group_is_resumed(group, configs, tmp_path, monkeypatch):
    folders, take = [tmp_path / str(i) for i in range(3)], Stepper.take

    def stopping(self, step, steps):
        if step + steps == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", stopping)
        stopped = fit_group(configs, folders)
    assert [(r.finished, r.stopped, int(r.state.step)) for r in stopped] == [(False, True, 4)] * 3
    for result, whole, folder in zip(fit_group(configs, folders), group[1], folders, strict=True):
        assert result.finished
        assert_identical(result.state, whole.state)
        assert read_metrics(folder, "start")[-1]["step"] == 4


def test_runs_that_stand_at_different_steps_go_on_apart(group, configs, tmp_path):
    """As after a kill between the checkpoints of two runs. The first two stand at step 4, the third is done."""
    folders = [shutil.copytree(folder, tmp_path / str(i)) for i, folder in enumerate(group[0])]
    for folder in folders[:2]:
        shutil.rmtree(folder / "checkpoints" / "6")
        newest = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    results = fit_group(configs, folders)
    starts = [[line["step"] for line in read_metrics(folder, "start")] for folder in folders]
    assert starts == [[0, newest], [0, newest], [0]]
    for result, whole in zip(results, group[1], strict=True):
        assert_identical(result.state, whole.state)


def test_what_is_wrong_with_one_leaves_the_others(group, configs, cache, tmp_path):
    folders = [tmp_path / str(i) for i in range(3)]
    wild = dataclasses.replace(
        configs[0], train=dataclasses.replace(configs[0].train, learning_rate=1.0, lambda_adv=100.0)
    )
    with lock(folders[1]):
        diverged, busy, fine = fit_group([wild, configs[1], configs[2]], folders)
    assert isinstance(diverged, DivergedError)
    assert read_metrics(folders[0])[-1]["kind"] == "diverged"
    assert isinstance(busy, BusyError)
    assert_identical(fine.state, group[1][2].state)


def test_refuses_runs_that_need_different_programs(configs, cache, tmp_path):
    other = smallest(cache, batch_size=16)
    with pytest.raises(ValueError, match="do not share a program"):
        fit_group([configs[0], other], [tmp_path / "0", tmp_path / "1"])


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "reference_couplings"), [(1, 2), (4, 2), (1, 0)])
def test_all_phases_in_a_group(cache, tmp_path, devices, reference_couplings):
    trials = {"seed": 0}, {"seed": 2, "lambda_adv": 0.01, "learning_rate": 2e-3}
    configs = [smallest(cache, later_phases=True, **trial) for trial in trials]
    for number in range(2):
        values = to_dict(configs[number])
        values["model"]["reference_couplings"] = reference_couplings
        configs[number] = parse(values)
    folders = [tmp_path / f"group{i}" for i in range(2)]
    results = fit_group(configs, folders, jax.devices()[:devices])
    for number, config in enumerate(configs):
        assert results[number].finished
        fit(config, tmp_path / str(number), devices=jax.devices()[:1])
        assert_alike(folders[number], tmp_path / str(number))
