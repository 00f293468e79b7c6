import numpy as np
import pytest
from PIL import Image

from infoae_jax.cli.main import main
from infoae_jax.devices import setup as device_setup
from infoae_jax.inference import load as load_module
from infoae_jax.inference.load import load


@pytest.fixture
def devices_are_set_up(monkeypatch):
    """In this process, in which it is too late to change them."""
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)


@pytest.fixture(scope="session")
def untrained_model(untrained):
    return load(untrained)


@pytest.fixture
def images_here(tmp_path, monkeypatch):
    """The working directory, with the images a.png and b.png and the folder more/ of two."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    for name in ("a.png", "b.png", "more/c.png", "more/d.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(name)
    return tmp_path


@pytest.fixture
def command(untrained, untrained_model, images_here, devices_are_set_up, monkeypatch):
    """Runs a command on the run `RUN`, whose model is loaded only once, beside some images."""
    monkeypatch.setattr(load_module, "load", lambda run, step=None: untrained_model)
    return lambda *words: main([str(untrained) if word == "RUN" else word for word in words])
