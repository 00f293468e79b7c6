"""Which training the runs of the ablation share, on made-up run folders."""

import argparse
import dataclasses
import functools
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import ablation
from configs import mnist
from infoae_jax.config import parse
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, open_run, read_info
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import now
from infoae_jax.training.schedule import init_state

ENDS = {"autoencoder": 30, "alignment": 50}


def make_run(out, name, config, ends=ENDS):
    """Makes a finished run with empty checkpoints, and returns its folder."""
    run = out / name
    phases = {"autoencoder": config.train, "alignment": config.alignment}
    run.mkdir()
    open_run(run, RunInfo(config, (28, 28, 1), tuple("0123456789"), 256, 64, "abc"), "1 x cpu")
    for kind, step in ends.items():
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        append_metrics(run, kind, step=step, epoch=phases[kind].epochs)
    append_metrics(run, "end", step=max(ends.values(), default=0), time=now())
    return run


def configuration(**changes):
    values = mnist.get_config("tiny")
    values.model.couplings = 2
    values.update_from_flattened_dict(changes)
    return parse(values)


@pytest.fixture
def out(tmp_path):
    """A folder with a run of the default recipe."""
    make_run(tmp_path, "a", configuration())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"refine.style_weight": 0.5}, True),
        ({"alignment.style_weight": 0.5, "evaluate.at_end": "quick"}, True),
        ({"model.couplings": 5}, True),
        ({"train.lambda_adv": 0.5}, False),
        ({"model.bottleneck": 5}, False),
        ({"train.seed": 7}, False),
    ],
)
def test_the_autoencoder_of_another_run_is_shared_if_it_is_the_same(out, change, shared):
    steps = ablation.shared_steps(out / "a", configuration(**change))
    assert steps == (ENDS["autoencoder"] if shared else 0)


@pytest.mark.parametrize(
    ("source_changes", "target_changes"),
    [
        ({"model.couplings": 0}, {"model.couplings": 1, "model.reference_couplings": 0}),
        pytest.param({"model.reference_couplings": 1}, {"model.reference_couplings": 0}, marks=pytest.mark.slow),
    ],
)
def test_the_autoencoder_is_shared_whatever_alignment_follows(tmp_path, source_changes, target_changes):
    base = {"model.couplings": 1, "model.reference_couplings": 1, "refine.epochs": 0}
    source, target = (configuration(**base | changes) for changes in (source_changes, target_changes))

    def state(config):
        model = build(config.model, (28, 28, 1), 10)
        return init_state(model, config)

    run = make_run(tmp_path, "a", source, {"autoencoder": 30, "alignment": 50})
    for step in (30, 50):
        (run / "checkpoints" / str(step)).rmdir()
    begin = state(source)
    trained = dataclasses.replace(jax.tree.map(lambda x: x + 1, begin), step=np.int32(30))
    with Checkpoints(run, keep=1, wait=True) as checkpoints:
        checkpoints.save(30, trained)
    (run / "checkpoints" / "50").mkdir()

    ablation.borrow(tmp_path, target, tmp_path / "new")
    assert read_info(tmp_path / "new").config == target
    assert [line["step"] for line in read_metrics(tmp_path / "new")] == [30]
    own = state(target)
    with Checkpoints(tmp_path / "new") as checkpoints:
        step, found = checkpoints.restore(own)
    assert step == found.step == 30

    def parts(state):
        return state.variables["params"], state.optimizers, state.sums

    later = {"alignment", "alignment_helpers", "refinement"}  # of what the first phase does not train
    for taken, shared, fresh in zip(parts(found), parts(trained), parts(own), strict=True):
        assert taken.keys() == fresh.keys() > later & fresh.keys()
        expected = {name: value if name in later else shared[name] for name, value in fresh.items()}
        jax.tree.map(np.testing.assert_array_equal, taken, expected)
    # The autoencoder needs the statistics of the pixels that it was trained with.
    alignment = {"alignment": own.variables["constants"]["alignment"]}
    jax.tree.map(
        np.testing.assert_array_equal, found.variables["constants"], trained.variables["constants"] | alignment
    )
    # Both start from the same parameters: otherwise it would not be the same training.
    mine, theirs = ({k: v for k, v in s.variables["params"].items() if k not in later} for s in (own, begin))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_a_run_of_other_settings_is_not_taken_for_a_row(tmp_path, monkeypatch):
    def fails(command):
        raise AssertionError(command)

    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=fails))
    arguments = argparse.Namespace(rows=["default"], seeds=[0], out=tmp_path, data_dir="", config="mnist:tiny")
    config, _ = ablation.config_of("default", 0, "", "mnist:tiny")
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, lambda_adv=0.9))
    folder = ablation.folder_of(tmp_path, "default", 0)
    for found, outcome in ((other, pytest.raises(SystemExit, match="lambda_adv: 0.9")), (config, nullcontext())):
        make_run(tmp_path, folder.name, found)
        (folder / "evaluation.json").write_text("{}")
        with outcome:
            ablation.run_all(arguments)
        shutil.rmtree(folder)


def test_a_failed_run_ends_the_ablation_and_a_diverged_one_does_not(tmp_path, monkeypatch):
    arguments = argparse.Namespace(rows=["default"], seeds=[0, 1], out=tmp_path, data_dir="", config="mnist:tiny")
    begun = []

    def run(command, diverges):
        folder = Path(command[-1].removeprefix("--workdir="))
        begun.append(folder.name)
        if not folder.exists():
            config, _ = ablation.config_of("default", int(folder.name[-1]), "", "mnist:tiny")
            make_run(tmp_path, folder.name, config, {})
        if diverges:
            append_metrics(folder, "diverged", step=3)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=functools.partial(run, diverges=False)))
    with pytest.raises(SystemExit, match="1"):
        ablation.run_all(arguments)
    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=functools.partial(run, diverges=True)))
    ablation.run_all(arguments)
    ablation.run_all(arguments)  # nothing is left to do
    assert begun == ["default-seed0", "default-seed0", "default-seed1"]
    assert ablation.results(tmp_path) == {"default": ["diverged at step 3"] * 2}


def test_missing_checkpoints_and_runs_of_other_code_are_not_shared(out, monkeypatch):
    config = configuration(**{"alignment.style_weight": 0.5})
    monkeypatch.setattr(ablation, "code_version", lambda: {"source": "another"})
    assert ablation.shared_steps(out / "a", config) == 0
    monkeypatch.undo()
    assert ablation.shared_steps(out / "a", config) == ENDS["autoencoder"]
    (out / "a" / "checkpoints" / str(ENDS["autoencoder"])).rmdir()
    assert ablation.shared_steps(out / "a", config) == 0


def test_without_refinement_its_settings_change_nothing():
    """Rows that change nothing are left out; rendered is refined, MNIST is not."""
    assert ablation.changed_by("refinement without its cycle term", "mnist") == []
    assert ablation.changed_by("no refinement", "mnist") == []
    assert ablation.changed_by("no refinement", "rendered") == ["refine.epochs: 1 -> 0"]
    assert ablation.changed_by("no swap term at all", "mnist") == ["train.swap_weight: 0.005 -> 0.0"]
    assert len(ablation.changed_by("no swap term at all", "rendered")) == 2
