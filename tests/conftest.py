"""Strict JAX, four fake devices, and shapes checked at run time."""

import atexit
import dataclasses
import os
import shutil
import signal
import tempfile

# Optimising the machine code takes longer than running it in most tests. The caller's flags win: with
# XLA_FLAGS=--xla_backend_optimization_level=3 the tests run the code that users run.
_FOUR = "--xla_force_host_platform_device_count=4"
_FLAGS = "--xla_backend_optimization_level=0 " + os.environ.get("XLA_FLAGS", "").replace(_FOUR, "")
os.environ["XLA_FLAGS"] = f"{_FLAGS} {_FOUR}"

# Where a shell starts the tests in the background, SIGINT is ignored, and the processes that they start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The CPU can be four devices. (On one GPU, tests that need several fail.)
if os.environ.setdefault("JAX_PLATFORMS", "cpu") != "cpu":
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")  # TF32 is too coarse for the tests' tolerances

# Many tests compile the same programs: in this process, in pytest's other workers and in the processes they start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _COMPILED = tempfile.mkdtemp(prefix="infoae_jax-compiled-")
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 (the hook below finds it by name)

install_import_hook("infoae_jax", "tests.typechecker.check")

import jax
import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, open_run
from infoae_jax.training.schedule import init_state
from infoae_jax.training.stepper import step_program

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
# The same examples each time in CI; elsewhere hypothesis looks for new ones. A busy machine may take long for one.
settings.register_profile("tests", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tests")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One data cache for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def child_environment():
    """For processes that choose their own number of devices; XLA's other flags are those of the tests."""
    return {**os.environ, "XLA_FLAGS": _FLAGS}


@pytest.fixture
def one_device(monkeypatch):
    """Only one of the four devices, which saves three compilations of what is compiled for each."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.fixture
def new_programs():
    """For tests that change what is compiled: they share no compiled step with other tests."""
    step_program.cache_clear()
    yield
    step_program.cache_clear()


@pytest.fixture
def tiny(cache):
    """The `:tiny` ConfigDict of the rendered data set, to be changed freely and parsed."""
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    return values


@pytest.fixture
def tiny_config(tiny):
    return parse(tiny)


@pytest.fixture(scope="session")
def untrained(cache, tmp_path_factory):
    """A run folder of the rendered data set with checkpoints of random parameters at steps 3 and 8; not to change."""
    values = rendered.get_config("tiny")
    values.data.cache_dir, values.model.couplings = str(cache), 2
    config = parse(values)
    splits = load_splits(config.data)
    info = RunInfo(config, (32, 32, 3), splits.train.class_names, 256, 64, splits.fingerprint)
    folder = tmp_path_factory.mktemp("untrained") / "run"
    folder.mkdir()
    open_run(folder, info, "1 x cpu")
    model = build(config.model, info.image_shape, 10)
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (3, 8):
            state = init_state(model, dataclasses.replace(config, train=dataclasses.replace(config.train, seed=step)))
            rng = np.random.default_rng(step)
            variables = jax.tree.map(  # not the identity, as a fresh alignment is
                lambda x, rng=rng: x if x.any() else x + 0.05 * rng.standard_normal(x.shape, np.float32),
                state.variables,
            )
            checkpoints.save(step, dataclasses.replace(state, step=np.asarray(step, np.int32), variables=variables))
    return folder


@pytest.fixture
def image_folder(tmp_path):
    """A function that writes `count` random PNG images for each of `classes` into a folder and returns the folder."""

    def make(classes=("apple", "pear"), count=6, size=(32, 32), mode="RGB", root=tmp_path / "images", seed=0):
        rng = np.random.default_rng(seed)
        for name in classes:
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
        return root

    return make
