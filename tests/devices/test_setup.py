"""Set-up of a process, seen from other processes."""

import ctypes
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jaxlib
import pytest

from infoae_jax.devices import setup

ROOT = Path(__file__).parents[2]


def python(code, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_importing_the_library_sets_nothing():
    code = """
import importlib, json, pkgutil
import jax, flax.linen, optax, orbax.checkpoint  # may set what they like
before = dict(jax.config.values)
import infoae_jax
names = [m.name for m in pkgutil.walk_packages(infoae_jax.__path__, "infoae_jax.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, [k for k, v in jax.config.values.items() if v != before[k]]]))
"""
    names, changed = json.loads(python(code).stdout)
    assert "infoae_jax.devices.setup" in names
    assert changed == []


SET_UP = """
import jax
from infoae_jax.devices.setup import set_up
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
set_up(%s)
jax.jit(lambda x: (x @ x).sum() + %d)(jax.numpy.ones((4, 4)))
print(len(jax.devices()), "cache_hits" in events, "cache_misses" in events)
"""


def test_programs_are_compiled_once(tmp_path):
    code = SET_UP % ("batch_size=6, cpu_devices=3", 1)
    results = [python(code, XDG_CACHE_HOME=str(tmp_path)).stdout.split() for _ in range(2)]
    assert results == [["3", "False", "True"], ["3", "True", "False"]]
    (folder,) = (tmp_path / "infoae_jax" / "compiled").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    other = SET_UP % ("batch_size=6, cpu_devices=3", 2)
    assert python(other, XDG_CACHE_HOME=str(tmp_path)).stdout.split()[2] == "True"


def test_the_cache_can_be_elsewhere_or_nowhere(tmp_path):
    code = SET_UP % ("batch_size=1", 1)
    python(code, XDG_CACHE_HOME=str(tmp_path / "a"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))
    assert list((tmp_path / "b").iterdir())
    off = SET_UP % ("batch_size=1, compilation_cache=False", 1)
    python(off, XDG_CACHE_HOME=str(tmp_path / "a"))
    python(off, XDG_CACHE_HOME=str(tmp_path / "a"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "c"))
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").write_text("")
    python(code, XDG_CACHE_HOME=str(tmp_path / "file"))  # warns and continues


KEEPS = """
import os
import jax, numpy as np
from infoae_jax.devices.setup import set_up
set_up(1, compilation_cache=False)
jax.config.update("jax_num_cpu_devices", 2)  # an error once devices have been touched
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
block = np.ones(2**23)
before = resident()
del block
print(before - resident() < 2**25)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="for glibc")
@pytest.mark.parametrize(("platforms", "kept"), [("cpu", "True"), ("cuda,cpu", "False")])
def test_freed_memory_is_kept_where_the_cpu_computes(platforms, kept):
    assert python(KEEPS, JAX_PLATFORMS=platforms).stdout.strip() == kept


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="for glibc")
def test_freed_memory_is_not_kept_if_an_accelerator_plugin_is_installed(tmp_path):
    plugin = tmp_path / "plugin-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[jax_plugins]\nfast = fast\n")
    assert python(KEEPS, PYTHONPATH=str(tmp_path)).stdout.strip() == "False"


@pytest.mark.slow
def test_peak_memory_is_the_images_and_a_constant(tmp_path):
    """SVHN's train+extra and test sizes, random content: read from the source, then from the cache."""
    code = """
import os, resource, signal, sys, threading, time
import numpy as np
from infoae_jax.devices.setup import set_up
from infoae_jax.data import load
from infoae_jax.data.dataset import Dataset, Source
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training.fit import fit
from infoae_jax.config import parse
from configs import svhn

def source(config, prepare):
    def decode():
        rng = np.random.default_rng(0)
        splits = []
        for count in (604_388, 26_032):
            images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
            splits.append(Dataset(images, rng.integers(0, 10, count).astype(np.int32), tuple("0123456789")))
        return splits
    return Source({"test": 1}, decode)

def stop():
    while len(read_metrics(sys.argv[1], "autoencoder_step")) < 20:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

load._find_source = source
values = svhn.get_config()
values.log.every_steps = 1
set_up(values.train.batch_size)
threading.Thread(target=stop, daemon=True).start()
assert not fit(parse(values), sys.argv[1]).finished
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    images = (604_388 + 26_032) * 32 * 32 * 3
    for number in range(2):
        code_here = code.replace("sys.argv[1]", repr(str(tmp_path / f"run{number}")))
        out = python(code_here, XDG_CACHE_HOME=str(tmp_path / "cache")).stdout
        peak = int(out.rpartition("peak ")[2])
        assert peak < images + 1.5 * 2**30, f"{(peak - images) / 2**30:.2f} GiB above the images (run {number})"


FLAGS = """
import os, jaxlib
from infoae_jax.devices import setup
%s
setup.set_up(None, onednn=True)
print(os.environ.get("XLA_FLAGS", ""))
"""


@pytest.mark.parametrize(
    ("versions", "count"), [("((0, 0),)", 0), ("(tuple(map(int, jaxlib.__version__.split('.')[:2])),)", 2)]
)
def test_onednn_is_chosen_for_versions_that_were_tried(tmp_path, versions, count):
    code = FLAGS % f"setup._ONEDNN_VERSIONS = {versions}"
    flags = python(code, XDG_CACHE_HOME=str(tmp_path)).stdout.split()
    assert len(flags) == count
    own = "--xla_cpu_experimental_onednn_custom_call=false"
    flags = python(code, XDG_CACHE_HOME=str(tmp_path), XLA_FLAGS=own).stdout.split()
    assert flags == [own]  # the user has chosen


def test_onednn_is_not_chosen_where_an_accelerator_computes(tmp_path):
    code = FLAGS % "setup._ONEDNN_VERSIONS = (tuple(map(int, jaxlib.__version__.split('.')[:2])),)"
    assert not python(code, XDG_CACHE_HOME=str(tmp_path), JAX_PLATFORMS="cuda").stdout.split()


CONVOLVE = """
from infoae_jax.devices.setup import set_up
set_up(None, cpu_devices=1, compilation_cache=False, onednn=True)
import jax, jax.numpy as jnp
x, w = jnp.ones((64, 14, 14, 32)), jnp.ones((5, 5, 32, 64))
convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
print("onednn" in jax.jit(convolve).lower(x, w).compile().as_text())
"""


def test_convolutions_are_computed_by_onednn_where_it_is_chosen():
    version = tuple(map(int, jaxlib.__version__.split(".")[:2]))
    assert python(CONVOLVE).stdout.split() == [str(version in setup._ONEDNN_VERSIONS)]
