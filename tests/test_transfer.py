import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax import runlog
from infoae_jax.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    from configs import rendered

    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    values.checkpoint.every_steps = 3
    folder = tmp_path_factory.mktemp("transfer") / "run"
    return folder, infoae_jax.fit(infoae_jax.config.parse(values), folder)


def test_load_gives_the_trained_model(run):
    folder, result = run
    trained = infoae_jax.load(folder)
    model, variables = trained.model, trained.variables
    for mine, theirs in zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(result.state.params), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    swapped = model.apply(variables, images, np.array([1, 2, 3]), method="transfer")
    assert swapped.shape == images.shape
    info = trained.info
    assert info.class_names == tuple("0123456789")
    assert info.config.model.bottleneck == model.bottleneck == 32


def test_load_another_step_and_while_a_training_holds_the_folder(run):
    folder, _ = run
    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    with runlog.lock(folder):
        older = infoae_jax.load(folder, steps[0]).variables
    newer = infoae_jax.load(folder).variables
    pairs = zip(jax.tree.leaves(older), jax.tree.leaves(newer), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)
    with pytest.raises(UserError, match="no checkpoint of step 12345"):
        infoae_jax.load(folder, 12345)


def test_load_of_what_is_no_run(tmp_path, tiny_config):
    with pytest.raises(UserError, match="not a run folder"):
        infoae_jax.load(tmp_path)
    info = runlog.RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "abc")
    runlog.open_run(tmp_path, info, "1 x cpu")
    with pytest.raises(UserError, match="no checkpoint yet"):
        infoae_jax.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]  # reading leaves no trace


def test_import_is_light():
    code = """
import json, sys, time
begin = time.perf_counter()
import infoae_jax
infoae_jax.load, infoae_jax.fit  # what is imported lazily counts too
seconds = time.perf_counter() - begin
print(json.dumps([seconds, [m for m in ("tensorflow", "matplotlib", "torch") if m in sys.modules]]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(result.stdout)
    assert heavy == []
    assert seconds < 2.5


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        infoae_jax.lode  # noqa: B018


def test_the_readmes_python_example_runs(run):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    code = code.replace('"runs/mnist"', repr(str(run[0]))).replace("(2, 28, 28, 1)", "(2, 32, 32, 3)")
    names = {}
    exec(code, names)
    assert names["swaps"].shape == (2, 32, 32, 3)
    assert names["z"].shape == (2, 32)
    np.testing.assert_allclose(names["again"], np.clip(names["swaps"], 0, 1), atol=1e-6)
    assert names["every"].shape == (2, 10, 32, 32, 3)
    assert len(names["way"]) == 9
    assert len(names["new"]) == 5
    assert names["near"].rows.shape == (2, 3)
