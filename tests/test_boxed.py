import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import infoae_jax
from infoae_jax import boxed, data, export, rendered, runlog
from infoae_jax.errors import UserError
from infoae_jax.model import build
from infoae_jax.styles import Kept
from infoae_jax.transfer import Trained

MOST_BYTES = 2_000_000
NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def box():
    """benchmarks/box.py, which makes them."""
    spec = importlib.util.spec_from_file_location("box", Path(__file__).parents[1] / "benchmarks" / "box.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", boxed.names())
def test_a_boxed_model_is_small_and_has_a_card(name):
    path = boxed.FOLDER / f"{name}.npz"
    assert path.stat().st_size <= MOST_BYTES
    card = path.with_suffix(".md").read_text()
    figures = export.read_npz(path).description["figures"]
    assert f"{figures['boxed']['mse']:.5f}" in card
    assert f"{figures['evaluation']['leakage']['accuracy']:.1%}" in card
    assert "launch.py --config=configs/" in card


@pytest.mark.parametrize("name", boxed.names())
def test_a_boxed_model_draws_and_reads_its_examples(name):
    trained = infoae_jax.load(name)
    extras = export.read_npz(boxed.FOLDER / f"{name}.npz").extras
    images, labels = extras["examples/images"], extras["examples/labels"]
    assert len(images) == 40
    assert (trained.read(images).labels == labels).mean() >= 0.85
    swaps = trained.grid(images[:8])
    asked = np.tile(np.arange(10), 8)
    assert (trained.read(swaps.reshape(80, *images.shape[1:])).labels == asked).mean() > 0.85
    assert trained.sample(3).shape == (3, trained.model.bottleneck)


@pytest.mark.skipif("rendered" not in boxed.names(), reason="there is no boxed model of rendered digits yet")
def test_the_figures_on_the_card_hold_on_fresh_images():
    trained = infoae_jax.load("rendered")
    card = export.read_npz(boxed.FOLDER / "rendered.npz").description["figures"]["boxed"]
    images, labels, _ = rendered.draw(500, 20_000, 1)
    error = (trained.draw(trained.style_of(images), labels) - images.astype(np.float32) / 255) ** 2
    assert error.mean() == pytest.approx(card["mse"], rel=0.1)
    assert (trained.read(images).labels == labels).mean() == pytest.approx(card["content_accuracy"], abs=0.03)


def test_names_paths_and_what_is_neither(tmp_path, monkeypatch):
    monkeypatch.setattr(boxed, "FOLDER", tmp_path / "boxed")
    monkeypatch.chdir(tmp_path)
    boxed.FOLDER.mkdir()
    (boxed.FOLDER / "mnist.npz").touch()
    assert boxed.names() == ("mnist",)
    assert boxed.find("mnist") == boxed.FOLDER / "mnist.npz"
    (tmp_path / "mnist").mkdir()  # somebody's data
    assert boxed.find("mnist") == boxed.FOLDER / "mnist.npz"
    (tmp_path / "mnist" / "config.json").touch()  # somebody's run
    assert boxed.find("mnist") == Path("mnist")
    with pytest.raises(UserError, match=r"'mnost' is not a run folder.*comes with the package \(mnist\)"):
        infoae_jax.load("mnost")


@pytest.fixture(scope="module")
def trained(tiny_box_config):
    """An untrained model of rendered digits."""
    model = build(tiny_box_config.model, (32, 32, 3), 10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(0, 0.5 / np.sqrt(np.prod(s.shape[:-1])), s.shape).astype(np.float32)
        for name, s in flatten_dict(shapes["params"]).items()
    }
    params["image_decoder", "ConvTranspose_2", "bias"][:] = (
        0.5  # nearly grey, as the border of a trained one's pictures
    )
    params["image_decoder", "ConvTranspose_2", "kernel"] *= 0.1
    info = runlog.RunInfo(tiny_box_config, (32, 32, 3), NAMES, 256, 64, "x")
    kept = Kept(rng.normal(size=(30, 32)).astype(np.float32), np.zeros(30, np.int32))
    return Trained(model, {"params": unflatten_dict(params)}, info, kept, 12)


@pytest.fixture(scope="module")
def tiny_box_config():
    from configs import rendered as config
    from infoae_jax.config import parse

    values = config.get_config("tiny")
    values.train.lambda_adv = 0.25
    return parse(values)


@pytest.fixture
def made(box, trained, tmp_path, monkeypatch):
    """A box of it, and what was measured."""
    images, labels, factors = rendered.draw(60, 0, 1)
    test = data.Dataset(images, labels, NAMES, factors.arrays())
    record = {
        "format": runlog._FORMAT,
        "config": json.loads(json.dumps(runlog.to_dict(trained.info.config))),
        "data": {
            "image_shape": [32, 32, 3],
            "class_names": NAMES,
            "num_train": 256,
            "num_test": 64,
            "fingerprint": "x",
        },
        "environment": {"jax": "1.2.3", "device": "2 x cpu", "code": {"source": "abc", "modified": True}},
    }
    evaluation = {
        "data": {"test": 64},
        "untrusted": ["transfer"],
        "figures": {
            "leakage": {"accuracy": 0.4321, "chance": 0.1},
            "transfer": {"accuracy": 0.9},
            "style": {"r": {"background_l": 0.91, "width": None}},
        },
    }
    monkeypatch.setattr(boxed, "FOLDER", tmp_path)
    box.make("rendered", trained, record, evaluation, test, tmp_path)
    return tmp_path, test


def test_a_box_is_made_of_a_run_with_figures_measured_on_it(made, trained):
    folder, test = made
    assert sorted(p.name for p in folder.iterdir()) == ["rendered.md", "rendered.npz"]
    found = infoae_jax.load("rendered")
    error = (found.draw(found.style_of(test.images), test.labels) - test.images.astype(np.float32) / 255) ** 2
    saved = export.read_npz(folder / "rendered.npz")
    assert saved.description["figures"]["boxed"]["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert saved.description["figures"]["run"]["mse"] != saved.description["figures"]["boxed"]["mse"]
    assert saved.extras["examples/labels"].tolist()[:10] == list(range(10))
    np.testing.assert_allclose(found.styles, trained.styles, atol=2e-3)
    assert found.step == 12
    card = (folder / "rendered.md").read_text()
    for words in (
        "leakage (best of four probes) | 43.2%, chance 10.0%",
        "90.0%, but the judges are not trusted",
        "background l 0.91 |",
        f"{saved.description['figures']['boxed']['mse']:.5f}",
        "--config.train.lambda_adv=0.25",
        "code abc with changes",
        "step 12, 2 x cpu, JAX 1.2.3",
    ):
        assert words in card, words


def test_a_box_that_rounding_has_spoilt_is_refused(box, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    good = {"mse": 0.01, "content_accuracy": 0.99}
    box._check(path, {"run": good, "boxed": good})
    with pytest.raises(UserError, match="Rounding raises the reconstruction error from 0.01000 to 0.01100"):
        box._check(path, {"run": good, "boxed": {**good, "mse": 0.011}})
    with pytest.raises(UserError, match="Rounding lowers"):
        box._check(path, {"run": good, "boxed": {**good, "content_accuracy": 0.98}})
    path.write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(UserError, match="2000001 bytes"):
        box._check(path, {"run": good, "boxed": good})
