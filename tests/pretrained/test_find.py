import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax.data.rendered import generate
from infoae_jax.errors import UserError
from infoae_jax.inference.npz import read_npz
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.pretrained import find
from infoae_jax.pretrained.find import FOLDER, find_model, pretrained_names
from infoae_jax.runs.folder import read_record

MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def box():
    """benchmarks/box.py, which makes them."""
    spec = importlib.util.spec_from_file_location("box", Path(__file__).parents[2] / "benchmarks" / "box.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["mnist", "rendered"])
def test_a_boxed_model_is_small_and_has_a_card(name):
    path = FOLDER / f"{name}.npz"
    assert path.stat().st_size <= MOST_BYTES
    card = path.with_suffix(".md").read_text()
    figures = read_npz(path).description["figures"]
    assert f"{figures['boxed']['mse']:.5f}" in card
    assert f"{figures['evaluation']['leakage']['accuracy']:.1%}" in card
    assert "launch.py --config=configs/" in card


@pytest.mark.parametrize("name", ["mnist", "rendered"])
def test_a_boxed_model_draws_and_reads_its_examples(name):
    trained = infoae_jax.load(name)
    extras = read_npz(FOLDER / f"{name}.npz").extras
    images, labels = extras["examples/images"], extras["examples/labels"]
    assert len(images) == 40
    assert (trained.predict(images).labels == labels).mean() >= 0.85
    swaps = trained.grid(images[:8])
    asked = np.tile(np.arange(10), 8)
    assert (trained.predict(swaps.reshape(80, *images.shape[1:])).labels == asked).mean() > 0.85
    assert trained.sample(3).shape == (3, trained.module.bottleneck)


def test_the_figures_on_the_card_hold_on_fresh_images():
    trained = infoae_jax.load("rendered")
    card = read_npz(FOLDER / "rendered.npz").description["figures"]["boxed"]
    images, labels, _ = generate(500, 20_000, 1)
    error = (trained.decode(trained.encode(images), labels) - images.astype(np.float32) / 255) ** 2
    assert error.mean() == pytest.approx(card["mse"], rel=0.1)
    assert (trained.predict(images).labels == labels).mean() == pytest.approx(card["content_accuracy"], abs=0.03)


def test_names_paths_and_what_is_neither(tmp_path, monkeypatch):
    folder = tmp_path / "boxed"
    monkeypatch.setattr(find, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    (folder / "mnist.npz").touch()
    assert pretrained_names() == ("mnist",)
    assert find_model("mnist") == folder / "mnist.npz"
    (tmp_path / "mnist").mkdir()  # somebody's data
    assert find_model("mnist") == folder / "mnist.npz"
    (tmp_path / "mnist" / "config.json").touch()  # somebody's run
    assert find_model("mnist") == Path("mnist")
    with pytest.raises(UserError, match=r"'mnost' is not a run folder.*comes with the package \(mnist\)"):
        infoae_jax.load("mnost")


@pytest.fixture(scope="module")
def trained(untrained):
    return infoae_jax.load(untrained)


@pytest.fixture
def made(box, untrained, trained, tmp_path, monkeypatch):
    """A folder with a box of that run, and the images it was measured on."""
    monkeypatch.setattr(box, "_check", lambda *_: None)  # random numbers suffer more from rounding
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
    test = load_run_data(trained.info, None).test
    box.make("rendered", trained, read_record(untrained), evaluation, test, tmp_path)
    return tmp_path, test


@pytest.mark.filterwarnings("ignore:.*border of brightness")  # of a model that has not learnt how pictures look
def test_a_box_is_made_of_a_run_with_figures_measured_on_it(made, trained):
    folder, test = made
    assert sorted(p.name for p in folder.iterdir()) == ["rendered.md", "rendered.npz"]
    found = infoae_jax.load("rendered")
    error = (found.decode(found.encode(test.images), test.labels) - test.images.astype(np.float32) / 255) ** 2
    saved = read_npz(folder / "rendered.npz")
    assert saved.description["figures"]["boxed"]["mse"] == pytest.approx(float(error.mean()), rel=1e-5)
    assert saved.description["figures"]["run"]["mse"] != saved.description["figures"]["boxed"]["mse"]
    assert saved.extras["examples/labels"].tolist()[:10] == list(range(10))
    np.testing.assert_allclose(found.style_bank.z, trained.style_bank.z, atol=2e-3)
    assert found.step == 8
    card = (folder / "rendered.md").read_text()
    for words in (
        "leakage (best of four probes) | 43.2%, chance 10.0%",
        "90.0%, but the judges are not trusted",
        "background l 0.91 |",
        f"{saved.description['figures']['boxed']['mse']:.5f}",
        "--config.train.epochs=2",
        f"step 8, 1 x cpu, JAX {jax.__version__}, code ",
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
