import subprocess
import sys

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax.errors import UserError
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, lock, open_run


def test_load_gives_the_newest_or_an_older_checkpoint_and_the_record_of_the_run(untrained):
    model = infoae_jax.load(untrained)
    newest, older = model.variables, infoae_jax.load(untrained, 3).variables
    for variables, step in ((newest, 8), (older, 3)):
        with Checkpoints(untrained) as checkpoints:
            saved = checkpoints.restore(jax.eval_shape(lambda v: v, variables), step, "variables")[1]
        jax.tree.map(np.testing.assert_array_equal, variables, saved)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, newest, older)))
    assert model.step == 8
    assert model.classes == tuple("0123456789")
    assert model.info == infoae_jax.read_info(untrained)
    assert model.info.config.model.bottleneck == model.module.bottleneck == 32
    with pytest.raises(UserError, match="no checkpoint of step 12345"):
        infoae_jax.load(untrained, 12345)


def test_load_while_a_training_holds_the_folder(untrained):
    with lock(untrained):
        assert infoae_jax.load(untrained).variables


def test_load_refuses_what_is_no_run(tmp_path, tiny_config):
    with pytest.raises(UserError, match="not a run folder"):
        infoae_jax.load(tmp_path)
    info = RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "abc")
    open_run(tmp_path, info, "1 x cpu")
    with pytest.raises(UserError, match="no checkpoint yet"):
        infoae_jax.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]  # reading leaves no trace


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_checkpoint_with_numbers_that_are_none_is_refused(untrained, tmp_path, monkeypatch, value):
    restore = Checkpoints.restore

    def spoilt(*arguments):
        step, variables = restore(*arguments)
        bias = variables["params"]["image_decoder"]["out"]["bias"]
        variables["params"]["image_decoder"]["out"]["bias"] = bias.at[0].set(value)
        return step, variables

    monkeypatch.setattr(Checkpoints, "restore", spoilt)
    with pytest.raises(UserError, match=r"step 8 in .*run' holds values that are infinite or not a number\. Choose"):
        infoae_jax.load(untrained)


def test_load_says_nothing(untrained, child_environment):
    code = f"import infoae_jax; infoae_jax.load({str(untrained)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=child_environment, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
