from pathlib import Path

import numpy as np
import pytest

import infoae_jax
from infoae_jax.data.rendered import generate
from infoae_jax.errors import UserError
from infoae_jax.inference.npz import read_npz
from infoae_jax.pretrained import find
from infoae_jax.pretrained.find import FOLDER, find_model, pretrained_names

MAX_BYTES = 2_500_000


@pytest.mark.parametrize("name", ["mnist", "rendered"])
def test_a_pretrained_model_is_small_and_has_a_card(name):
    path = FOLDER / f"{name}.npz"
    assert path.stat().st_size <= MAX_BYTES
    card = path.with_suffix(".md").read_text()
    figures = read_npz(path).figures
    assert f"{figures['pretrained']['mse']:.5f}" in card
    assert f"{figures['evaluation']['leakage']['probe_accuracy']:.1%}" in card
    assert f"{figures['evaluation']['transfer']['transfer_accuracy']:.1%}" in card
    assert f"`python launch.py --config=configs/{name}.py`" in card


@pytest.mark.parametrize("name", ["mnist", "rendered"])
def test_a_pretrained_model_transfers_the_styles_of_its_examples(name):
    model, _, extras, _ = read_npz(FOLDER / f"{name}.npz")
    images, labels = extras["examples/images"], extras["examples/labels"]
    assert len(images) == 40
    assert (model.predict(images).labels == labels).mean() >= 0.85
    swaps = model.grid(images[:8])
    asked = np.tile(np.arange(10), 8)
    assert (model.predict(swaps.reshape(80, *images.shape[1:])).labels == asked).mean() > 0.85
    assert model.sample(3).shape == (3, model.module.bottleneck)


def test_the_figures_on_the_card_hold_on_fresh_images():
    model = infoae_jax.load("rendered")
    figures = read_npz(FOLDER / "rendered.npz").figures["pretrained"]
    images, labels, _ = generate(500, 20_000, 1)
    error = (model.decode(model.encode(images), labels) - images.astype(np.float32) / 255) ** 2
    assert error.mean() == pytest.approx(figures["mse"], rel=0.1)
    assert (model.predict(images).labels == labels).mean() == pytest.approx(figures["content_accuracy"], abs=0.03)


def test_names_paths_and_what_is_neither(tmp_path, monkeypatch):
    folder = tmp_path / "pretrained"
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
    with pytest.raises(
        UserError, match=r"no run folder, exported .npz file or pretrained model \(mnist\) called 'mnost'"
    ):
        infoae_jax.load("mnost")
