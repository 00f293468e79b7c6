"""What the runs of the ablation share, on made-up run folders."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import ablation
from configs import mnist
from infoae_jax import runlog, transfer
from infoae_jax.checkpoint import Checkpoints
from infoae_jax.config import parse
from infoae_jax.model import build
from infoae_jax.step import init_state

ENDS = {"epoch": 30, "align": 50, "refine": 60}


def make_run(out, name, config, ends=ENDS):
    """A finished run, of which nothing but its checkpoints' names is there."""
    run, phases = out / name, {"epoch": config.train, "align": config.alignment, "refine": config.refine}
    run.mkdir()
    runlog.open_run(run, runlog.RunInfo(config, (28, 28, 1), tuple("0123456789"), 256, 64, "abc"), "1 x cpu")
    for kind, step in ends.items():
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        runlog.append(run, kind, step=step, epoch=phases[kind].epochs)
    runlog.append(run, "end", step=max(ends.values()))
    return run


def configuration(**changes):
    values = mnist.get_config("tiny")
    values.model.couplings, values.refine.epochs = 2, 1
    values.update_from_flattened_dict(changes)
    return parse(values)


@pytest.fixture
def out(tmp_path):
    """With a run of the default recipe."""
    make_run(tmp_path, "a", configuration())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"refine.style_weight": 0.5}, "align"),
        ({"refine.epochs": 0, "evaluate.at_end": "quick"}, "align"),
        ({"alignment.transport": 0.5, "refine.style_weight": 0.5}, "epoch"),
        ({"train.lambda_adv": 0.5}, None),
        ({"model.bottleneck": 5}, None),
        ({"train.seed": 7}, None),
    ],
)
def test_a_run_begins_where_its_training_parts_from_anothers(out, change, shared):
    config, folder = configuration(**change), out / "new"
    ablation.borrow(out, config, folder)
    assert folder.exists() == (shared is not None)
    if shared:
        assert [p.name for p in (folder / "checkpoints").iterdir()] == [str(ENDS[shared])]
        assert max(line["step"] for line in runlog.read(folder)) == ENDS[shared]
        assert not runlog.read(folder, "end")
        assert runlog.read_info(folder).config == config


@pytest.mark.parametrize(("theirs", "ours"), [(2, 0), (0, 2), (2, 3)])
def test_the_autoencoder_is_shared_whatever_alignment_follows(tmp_path, theirs, ours):
    there, here = (configuration(**{"model.couplings": count, "refine.epochs": 0}) for count in (theirs, ours))

    def state(config):
        return init_state(build(config.model, (28, 28, 1), 10), config.train, config.train.seed)

    run = make_run(tmp_path, "a", there, {"epoch": 30})
    (run / "checkpoints" / "30").rmdir()
    trained = dataclasses.replace(state(there), params=jax.tree.map(lambda x: x + 1, state(there).params))
    with Checkpoints(run, keep=1, wait=True) as checkpoints:
        checkpoints.save(30, trained)

    ablation.borrow(tmp_path, here, tmp_path / "new")
    _, _, variables = transfer.restore(tmp_path / "new")
    expected = dict(trained.params) | {k: v for k, v in state(here).params.items() if k == "alignment"}
    if not ours:
        expected.pop("alignment")
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected)
    # They begin alike, too: otherwise it would not be the same training.
    both = {name: value for name, value in state(here).params.items() if name != "alignment"}
    jax.tree.map(np.testing.assert_array_equal, both, {name: state(there).params[name] for name in both})


def test_a_run_begins_from_the_one_that_went_farthest_alike(out):
    make_run(out, "b", configuration(**{"alignment.transport": 0.5}))
    make_run(out, "x.begun", configuration(**{"alignment.transport": 0.5}), {"epoch": 30, "align": 55})
    ablation.borrow(out, configuration(**{"alignment.transport": 0.5, "refine.style_weight": 0.5}), out / "new")
    assert [p.name for p in (out / "new" / "checkpoints").iterdir()] == [str(ENDS["align"])]


def test_what_was_not_kept_or_is_of_other_code_is_not_shared(out, monkeypatch):
    (out / "a" / "checkpoints" / str(ENDS["align"])).rmdir()
    config = configuration(**{"refine.style_weight": 0.5})
    assert ablation.shared_steps(out / "a", config) == ENDS["epoch"]
    monkeypatch.setattr(runlog, "environment", lambda: {"code": {"source": "another"}})
    assert ablation.shared_steps(out / "a", config) == 0
