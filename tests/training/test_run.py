import dataclasses

import numpy as np
import pytest

from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.images.appearance import appearance_features
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import run as run_module
from infoae_jax.training.fit import build_model
from infoae_jax.training.run import Run
from tests.small_training import devices_mesh


@pytest.fixture
def make_run(tiny, tmp_path):
    def make(**options):
        config = parse(tiny)
        splits = load_splits(config.data)
        return Run(config, tmp_path, splits, build_model(config, splits), "4 x cpu", devices_mesh(4), **options)

    return make


def test_runs_of_a_group_compute_the_appearance_once(make_run, monkeypatch):
    computed = []
    monkeypatch.setattr(
        run_module, "appearance_features", lambda *args: computed.append(args) or appearance_features(*args)
    )
    shared = {}
    first, second = (make_run(shared=shared).appearance for _ in range(2))
    assert first is second
    assert first.shape[:2] == (256, 2)
    assert len(computed) == 2


def test_the_first_host_alone_writes_and_prints(make_run, tmp_path, monkeypatch, capsys):
    written = []
    writer = type("Writer", (), {"add_scalar": lambda self, *args: written.append(args)})()
    run = make_run(tensorboard=writer)
    run.log("autoencoder_step", 3, loss=0.5)
    run.print("heard")
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    other = make_run()
    other.log("autoencoder_step", 4, loss=0.5)
    other.print("unheard")
    assert read_metrics(tmp_path) == [{"kind": "autoencoder_step", "step": 3, "loss": 0.5}]
    assert written == [("autoencoder_step/loss", 0.5, 3)]
    assert capsys.readouterr().out == "heard\n"


def test_views_are_made_of_the_training_images_and_are_the_same_each_time(make_run):
    run = make_run()
    images = run.splits.train.images
    assert run.images(0) is images
    run.config = dataclasses.replace(run.config, alignment=dataclasses.replace(run.config.alignment, views=4))
    assert list(run.views) == [0, 1, 2, 3, 4]
    first, second = run.images(4), run.images(3)
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    np.testing.assert_array_equal(first, run.images(4))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, images)
