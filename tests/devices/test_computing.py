"""Settings of JAX from outside: what is trained and computed does not depend on them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from infoae_jax.devices.computing import computing

ROOT = Path(__file__).parents[2]
TRAIN = """
import sys
import jax, numpy as np
import infoae_jax
from configs import rendered
values = rendered.get_config("tiny")
values.data.cache_dir, values.train.epochs = sys.argv[1], 1
result = infoae_jax.fit(infoae_jax.parse(values), sys.argv[2], devices=jax.devices()[:1])
assert {leaf.dtype.name for leaf in jax.tree.leaves(result.state)} == {"float32", "int32"}
model = infoae_jax.load(sys.argv[2])
images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
arrays = [*model.transfer(images, 7), *model.predict(images), model.encode(images), model.grid(images)]
assert {a.dtype.name for a in arrays if a is not None} == {"float32", "int32"}
assert jax.numpy.zeros(2, float).dtype == (np.float64 if jax.config.values["jax_enable_x64"] else np.float32)
"""


def test_trained_and_loaded_in_float32_under_any_setting(cache, tmp_path, child_environment):
    def run(name, **settings):
        command = [sys.executable, "-c", TRAIN, str(cache), str(tmp_path / name)]
        subprocess.run(command, cwd=ROOT, env={**child_environment, **settings}, check=True)

    run("run", JAX_ENABLE_X64="1", JAX_NUMPY_DTYPE_PROMOTION="strict", JAX_DEBUG_NANS="1")
    run("run")  # is done, and opens


def test_the_callers_own_settings_stay():
    @computing
    def dtype():
        return (jax.numpy.zeros(2, float) + jax.numpy.ones(2, "int8")).dtype.name

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert dtype() == "float32"
        assert jax.numpy.zeros(2, float).dtype.name == "float64"


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ("cuda", ["-m", "infoae_jax", "export", "mnist", "--to=npz", "--out=x.npz"]),
        ("cpuu", ["-c", "import infoae_jax; infoae_jax.load('mnist')"]),
        (
            "tpu",
            ["-c", "from configs import base; from infoae_jax import fit, parse; fit(parse(base.get_config()), 'x')"],
        ),
    ],
)
def test_a_platform_that_is_not_there_is_named(words, platform, tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": platform, "PYTHONPATH": str(ROOT)}
    ways = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    last = subprocess.run([sys.executable, *words], **ways).stderr.splitlines()[-1]
    assert f"JAX_PLATFORMS is '{platform}', but JAX cannot use that here" in last
    assert list(tmp_path.iterdir()) == []
