"""Systems whose figures are known beforehand."""

import dataclasses

import numpy as np
import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import Factors, render
from infoae_jax.evaluation import metrics as metrics_module
from infoae_jax.evaluation.judges import Judges
from infoae_jax.evaluation.measure import measure
from infoae_jax.evaluation.metrics import FIGURES, System
from infoae_jax.evaluation.record import QUICK

pytestmark = pytest.mark.usefixtures("one_device")

SMALL = dataclasses.replace(QUICK, train_codes=100, probe_epochs=1)


@pytest.fixture(scope="module")
def splits(cache):
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    return load_splits(parse(values).data)


@pytest.fixture(scope="module")
def worlds(splits):
    """All test and training images with every digit, by their bytes: number of the image, digit; and their renderer."""
    known, factors = {}, []
    for split in splits[:2]:
        factors.append(Factors(**split.factors))
        for digit in range(10):
            images = render(factors[-1], np.full(len(split), digit))
            known |= {image.tobytes(): (1000 * len(factors) + i, digit) for i, image in enumerate(images)}

    def render_one(number, digit):
        return render(factors[number // 1000 - 1][np.array([number % 1000])], np.array([digit]))[0]

    return known, render_one


@pytest.fixture(scope="module")
def all_knowing(worlds):
    """Judges that know every true image; from any other they read class 0."""
    known, _ = worlds

    def predict(images):
        labels = [known.get(image.tobytes(), (0, 0))[1] for image in images]
        return np.tile(np.array(labels, np.int32), (3, 1))

    def features(images):
        return images.reshape(len(images), -1)[:, ::97].astype(np.float32)

    return Judges((1.0, 1.0, 1.0), 0.9, predict, features)


def copying(splits):
    """An ordinary autoencoder without loss: the latent is the image, the class is not used."""
    shape = splits.test.images.shape[1:]
    return System(
        lambda images: images.reshape(len(images), -1).astype(np.float32) / 255,
        lambda z, labels: z.reshape(-1, *shape),
    )


def perfect(worlds):
    """The latent is the number of the image, and the decoded image the true one."""
    known, render_one = worlds

    def decode(z, labels):
        return np.stack([render_one(int(n[0]), c) for n, c in zip(z, labels, strict=True)]).astype(np.float32) / 255

    return System(lambda images: np.array([[known[image.tobytes()][0]] for image in images], np.float32), decode)


def styleless(splits):
    """Decodes to the mean image of the class."""
    train = splits.train
    means = np.stack([train.images[train.labels == c].mean(0) for c in range(10)]).astype(np.float32) / 255
    return System(lambda images: np.zeros((len(images), 2), np.float32), lambda z, labels: means[labels])


def test_copying_the_source_transfers_nothing_and_keeps_all_style(splits, all_knowing):
    figures = tuple(name for name in FIGURES if name != "leakage")
    found = measure(copying(splits), splits, all_knowing, SMALL, figures)["figures"]
    assert found["reconstruction"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["reconstruction"]["ssim"] == 1
    assert found["reconstruction"]["mse_increase_with_other_latent"] > 0.01
    assert found["transfer"]["transfer_accuracy"] == 0
    assert found["transfer"]["swaps"] == 9 * len(splits.test)
    assert found["style"]["ceiling"] == pytest.approx(dict.fromkeys(found["style"]["ceiling"], 1))
    # Not 1, since the mean of the class asked for is subtracted, which a copy does not show; and these are few images.
    assert min(found["style"]["correlation"].values()) > 0.75
    for error in found["style"]["colour_error"]["swaps"].values():
        assert error == pytest.approx({**dict.fromkeys(error, 0), "chroma_kept": 1}, abs=1e-6)
    assert found["composition"] == {"l1_after_1": 0, "l1_after_10": 0, "accuracy_after_10": 1}
    assert found["reversibility"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["reversibility"]["r2"] == pytest.approx(1)
    assert found["counterfactual"]["mse"] > 0.005


def test_perfect_transfer_has_perfect_figures(splits, worlds, all_knowing):
    figures = ("reconstruction", "transfer", "style", "counterfactual", "composition")
    found = measure(perfect(worlds), splits, all_knowing, SMALL, figures)["figures"]
    assert found["counterfactual"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["counterfactual"]["ssim"] == 1
    assert 25 < found["counterfactual"]["best_psnr"] < 45 < found["counterfactual"]["psnr"]  # it knew the noise
    assert found["transfer"]["transfer_accuracy"] == 1
    assert found["transfer"]["confusion"] == np.eye(10).tolist()
    assert found["composition"]["l1_after_10"] == 0
    errors = found["style"]["colour_error"]["swaps"]
    assert errors["background"]["mean"] < errors["foreground"]["mean"] < 10
    assert errors["background"]["median"] < errors["background"]["percentile_90"] < 10
    assert 0.9 < errors["background"]["chroma_kept"] < 1.1


def test_class_mean_has_no_style(splits, all_knowing):
    result = measure(styleless(splits), splits, all_knowing, SMALL)
    found = result["figures"]
    assert found["leakage"]["probe_accuracy"] < 0.25  # a constant latent
    assert found["reconstruction"]["mse_increase_with_other_latent"] == pytest.approx(0, abs=1e-9)
    assert all(np.isnan(r) or abs(r) < 0.3 for r in found["style"]["correlation"].values())
    assert np.isnan(found["reversibility"]["r2"])  # a constant latent has no variance to explain
    assert not result["left_out"].keys() - {"realism", "content"}


def test_figures_that_make_no_sense_are_left_out_with_the_reason(splits, all_knowing):
    def bright_and_grey(split):
        return Dataset(255 - split.images[..., :1] // 4, split.labels, split.class_names)

    grey = Splits(bright_and_grey(splits.train), bright_and_grey(splits.test), "")
    result = measure(copying(grey), grey, all_knowing, SMALL, ("content", "style", "counterfactual", "realism"))
    assert result["figures"] == {}
    assert "dark border" in result["left_out"]["style"]
    assert "no classifier" in result["left_out"]["content"]
    assert "rendered" in result["left_out"]["counterfactual"]
    assert "200" in result["left_out"]["realism"]


def test_formulas():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5000, 4))
    assert metrics_module.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics_module.frechet_distance(a, a + [3, 0, 0, 0]) == pytest.approx(9, rel=1e-6)
    # N(0, 1) against N(0, 4) in each of four dimensions: 4 (1 + 4 - 2 * 2).
    assert metrics_module.frechet_distance(a, 2 * a) == pytest.approx(4, rel=0.05)
    assert metrics_module.coverage(a[:500], a[:200]) == 1
    assert metrics_module.coverage(a[:500], a[:200] + 100) == 0
    partner = metrics_module.another_of_class(np.array([0, 1, 0, 2, 1]))
    assert partner.tolist() == [2, 4, 0, -1, 1]
    assert metrics_module.correlation(np.array([1, 2, np.nan, 4]), np.array([2, 4, 6, 8])) == pytest.approx(1)
    classes = np.array([0, 0, 1, 1])
    assert metrics_module.subtract_class_means(np.array([1.0, 3, 10, 20]), classes).tolist() == [-1, 1, -5, 5]
