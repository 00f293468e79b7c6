import numpy as np
import pytest

from infoae_jax.images import appearance
from infoae_jax.images.appearance import appearance_features, num_features


def blobs(labels, rng, channels=1):
    """Squares of random place, size and brightness; class 1 twice as wide."""
    images = np.zeros((len(labels), 16, 16, channels), np.uint8)
    facts = []
    for image, label in zip(images, labels, strict=True):
        top, left, side, ink = rng.integers(0, 8), rng.integers(0, 4), rng.integers(2, 6), rng.integers(60, 255)
        image[top : top + side, left : left + side * (1 + label)] = ink
        facts.append((top, left, side, ink))
    return images, np.array(facts)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_have_no_class_mean_and_unit_size(channels):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000).astype(np.int32)
    found = appearance_features(blobs(labels, rng, channels)[0], labels, 2)
    assert found.shape == (5000, num_features(channels))
    assert np.mean(found**2) == pytest.approx(1, rel=1e-4)
    for c in range(2):
        np.testing.assert_allclose(found[labels == c].mean(0), 0, atol=1e-4)


def test_features_tell_what_is_in_an_image_whatever_its_class():
    """One linear map for both classes predicts height and brightness from them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000).astype(np.int32)
    images, facts = blobs(labels, rng)
    found = appearance_features(images, labels, 2)
    for column in (0, 3):
        truth = facts[:, column] - facts[:, column].mean()
        weights = np.linalg.lstsq(found[:3000], truth[:3000], rcond=None)[0]
        assert np.corrcoef(found[3000:] @ weights, truth[3000:])[0, 1] > 0.8


def test_constant_images_and_absent_classes_are_borne():
    found = appearance_features(np.full((10, 8, 8, 3), 7, np.uint8), np.zeros(10, np.int32), 3)
    assert np.isfinite(found).all()


def test_images_are_handled_in_portions_of_a_number_of_pixels(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 16, 16, 3), np.uint8), np.arange(50, dtype=np.int32) % 3
    whole, portions, hypot = appearance_features(images, labels, 3), [], np.hypot
    monkeypatch.setattr(np, "hypot", lambda a, b: portions.append(len(a)) or hypot(a, b))
    monkeypatch.setattr(appearance, "MAX_PIXELS_AT_ONCE", 7 * 16 * 16)
    np.testing.assert_allclose(appearance_features(images, labels, 3), whole, atol=1e-6)
    assert portions == [7] * 7 + [1]
    monkeypatch.setattr(appearance, "MAX_PIXELS_AT_ONCE", 1)  # less than an image has
    appearance_features(images, labels, 3)
    assert portions[8:] == [1] * 50
