import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.devices import hosts
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training import run as run_module
from infoae_jax.training.appearance import appearance_features
from infoae_jax.training.fit import build_model
from infoae_jax.training.run import Run, Slice, own_slice
from tests.small_training import devices_mesh


@pytest.fixture
def make_run(tiny, tmp_path):
    def make(devices=4, **options):
        config = parse(tiny)
        splits, mesh = load_splits(config.data), devices_mesh(devices)
        model = build_model(config, splits)
        return Run(config, tmp_path, splits, model, f"{devices} x cpu", mesh, mesh, lambda step: False, **options)

    return make


def test_steps_count_over_all_phases(tiny, make_run):
    """256 images, batches of 64, two epochs."""
    assert make_run().steps == (8, 8, 8)
    tiny.refine.epochs = 3
    assert make_run().steps == (8, 8, 20)
    tiny.model.couplings, tiny.alignment.epochs, tiny.alignment.batch_size = 2, 5, 100
    assert make_run().steps == (8, 18, 30)


@pytest.mark.parametrize(
    ("asked", "devices", "given"), [(64, 4, 64), (1000, 4, 256), (1000, 3, 255), (6, 4, 4), (1, 4, 4)]
)
def test_a_batch_of_the_alignment_is_shared_equally_by_the_devices(tiny, make_run, asked, devices, given):
    tiny.alignment.batch_size = asked
    assert make_run(devices).align_batch == given


def test_runs_of_a_group_compute_the_appearance_once(make_run, monkeypatch):
    computed = []
    monkeypatch.setattr(
        run_module, "appearance_features", lambda *args: computed.append(args) or appearance_features(*args)
    )
    shared = {}
    first, second = (make_run(shared=shared).appearance for _ in range(2))
    assert first is second
    assert first.shape[0] == 256
    assert len(computed) == 1


def test_the_first_host_alone_writes_and_prints(make_run, tmp_path, monkeypatch, capsys):
    written = []
    writer = type("Writer", (), {"add_scalar": lambda self, *args: written.append(args)})()
    run = make_run(tensorboard=writer)
    run.log("epoch", 3, loss=0.5)
    run.print("heard")
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    other = make_run()
    other.log("epoch", 4, loss=0.5)
    other.print("unheard")
    assert read_metrics(tmp_path) == [{"kind": "epoch", "step": 3, "loss": 0.5}]
    assert written == [("epoch/loss", 0.5, 3)]
    assert capsys.readouterr().out == "heard\n"


def test_a_slice_is_one_runs_part_of_a_stack():
    tree = {"a": jnp.arange(6).reshape(3, 2), "b": jnp.arange(3.0)}
    part = own_slice(Slice(tree, 1))
    np.testing.assert_array_equal(part["a"], [2, 3])
    assert part["b"] == 1
    assert own_slice(tree) is tree
