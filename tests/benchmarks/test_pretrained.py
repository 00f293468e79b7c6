import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax.errors import UserError
from infoae_jax.inference.load import load_bundle
from infoae_jax.inference.npz import read_npz
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.pretrained import find


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "pretrained.py"
    spec = importlib.util.spec_from_file_location("pretrained_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(untrained):
    return load_bundle(untrained)


@pytest.fixture
def made(benchmark, bundle, tmp_path, monkeypatch):
    """A folder with a pretrained model of that run, and the images it was measured on."""
    monkeypatch.setattr(benchmark, "check", lambda *_: None)  # random numbers suffer more from rounding
    evaluation = {
        "data": {"test": 64},
        "untrusted": ["transfer"],
        "figures": {
            "leakage": {"probe_accuracy": 0.4321, "chance": 0.1},
            "transfer": {"transfer_accuracy": 0.9},
            "style": {"correlation": {"background_l": 0.91, "width": None}},
        },
    }
    monkeypatch.setattr(find, "FOLDER", tmp_path)
    test = load_run_data(bundle.model.info).test
    benchmark.make("rendered", bundle, evaluation, test, tmp_path)
    return tmp_path, test


@pytest.mark.filterwarnings("ignore:.*border of brightness")  # of a model that has not learnt what images look like
def test_a_pretrained_model_is_made_of_a_run_with_figures_measured_on_it(made, bundle):
    folder, test = made
    assert sorted(p.name for p in folder.iterdir()) == ["rendered.md", "rendered.npz"]
    found = infoae_jax.load("rendered")
    error = (found.decode(found.encode(test.images), test.labels) - test.images.astype(np.float32) / 255) ** 2
    _, _, extras, figures = read_npz(folder / "rendered.npz")
    assert figures["pretrained"]["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert figures["run"]["mse"] != figures["pretrained"]["mse"]
    assert extras["examples/labels"].tolist()[:10] == list(range(10))
    np.testing.assert_allclose(found.style_bank.z, bundle.model.style_bank.z, atol=2e-3)
    assert found.step == 8
    card = (folder / "rendered.md").read_text()
    for words in (
        "accuracy of the best of four probes | 43.2% (chance 10.0%)",
        "transfer accuracy | 90.0%, but the judges are not trusted",
        "background l 0.91 |",
        f"{figures['pretrained']['mse']:.5f}",
        "--config.train.epochs=2",
        f"step 8, 1 x cpu, JAX {jax.__version__}.",
    ):
        assert words in card, words


def test_a_model_that_rounding_has_spoilt_is_refused(benchmark, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    good = {"mse": 0.01, "content_accuracy": 0.99}
    benchmark.check(path, {"run": good, "pretrained": good})
    with pytest.raises(UserError, match="Rounding raises the reconstruction error from 0.01000 to 0.01100"):
        benchmark.check(path, {"run": good, "pretrained": {**good, "mse": 0.011}})
    with pytest.raises(UserError, match="Rounding lowers"):
        benchmark.check(path, {"run": good, "pretrained": {**good, "content_accuracy": 0.98}})
    path.write_bytes(bytes(benchmark.MAX_BYTES + 1))
    with pytest.raises(UserError, match="2500001 bytes"):
        benchmark.check(path, {"run": good, "pretrained": good})
