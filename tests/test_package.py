import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import infoae_jax


def test_import_is_light():
    code = """
import json, sys, time
begin = time.process_time()
import infoae_jax
infoae_jax.load, infoae_jax.fit  # what is imported lazily counts too
seconds = time.process_time() - begin  # not of the clock, as other tests run beside this one
print(json.dumps([seconds, [m for m in ("tensorflow", "matplotlib", "torch") if m in sys.modules]]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(result.stdout)
    assert heavy == []
    assert seconds < 2.5


def test_mistakes_and_help_are_answered_without_jax():
    """Importing it takes longer than everything else together."""
    names = "infoae_jax.cli.main, infoae_jax.cli.train, infoae_jax.runs.folder"
    code = f"import sys, {names}; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        infoae_jax.lode  # noqa: B018


def test_the_python_example_of_the_documentation_runs(untrained, one_device):
    page = (Path(__file__).parents[1] / "docs/pages/python.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    code = code.replace('"runs/mnist"', repr(str(untrained))).replace("(2, 28, 28, 1)", "(2, 32, 32, 3)")
    names = {}
    exec(code, names)
    assert names["swaps"].shape == (2, 32, 32, 3)
    assert names["z"].shape == (2, 32)
    np.testing.assert_allclose(names["again"], np.clip(names["swaps"], 0, 1), atol=1e-5)
    assert names["every"].shape == (2, 10, 32, 32, 3)
    assert len(names["way"]) == len(names["new"]) == 8
    assert names["near"].rows.shape == (2, 1)


def test_nothing_of_posix_is_imported(tmp_path):
    """As on Windows, as far as another system can tell; TFDS is only for data to train on."""
    code = """
import os, signal, sys
# These are portable themselves, as they say.
import flax, jax, matplotlib.pyplot, ml_collections, optax, orbax.checkpoint, PIL.Image, sklearn, submitit
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for owner, names in {
    signal: ("SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2"),
    os: ("fork", "getuid", "sched_getaffinity", "statvfs"),
}.items():
    for name in names:
        delattr(owner, name)
sys.platform = "win32"
import importlib, pkgutil
import infoae_jax
for module in pkgutil.walk_packages(infoae_jax.__path__, "infoae_jax."):
    if module.name not in ("infoae_jax.__main__", "infoae_jax.data.tfds"):
        importlib.import_module(module.name)
from infoae_jax.cli.main import main
from infoae_jax.devices.signals import stop_signals
PIL.Image.new("L", (28, 28)).save("a.png")
assert main(["transfer", "mnist", "--style=a.png", "--content=7", "--out=b.png"]) == 0
assert main(["export", "mnist", "--to=npz", "--out=c.npz"]) == 0
with stop_signals() as stopped:
    assert not stopped()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
