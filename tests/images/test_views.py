import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.images.views import MAX_SHIFT, MAX_TURN, NUM_DRAWS, make_views


def views(images, **draws):
    """Views of `images` from the draws with these numbers, the others 0."""
    values = np.zeros((len(images), NUM_DRAWS), np.float32)
    for place, value in draws.items():
        values[:, int(place[1:])] = value
    return np.asarray(jax.jit(make_views)(jnp.asarray(images, jnp.float32), values))


def bar(row=14, column=14):
    """An image with an upright bar."""
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, row - 6 : row + 7, column - 1 : column + 2] = 1
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_of_zero_change_nothing(channels):
    images = np.random.default_rng(0).random((4, 8, 12, channels))
    np.testing.assert_allclose(views(images), images, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_images_and_each_is_its_own(channels):
    images = np.tile(np.random.default_rng(0).random((1, 16, 16, channels)), (50, 1, 1, 1))
    draws = np.random.default_rng(1).uniform(-1, 1, (50, NUM_DRAWS)).astype(np.float32)
    found = np.asarray(make_views(jnp.asarray(images, jnp.float32), jnp.asarray(draws)))
    assert found.min() >= 0
    assert found.max() <= 1
    assert len(np.unique(found.round(4), axis=0)) == 50


def test_grey_images_are_turned_sheared_scaled_and_shifted():
    def moments(image):
        mass, (rows, columns) = image[0, ..., 0] / image.sum(), np.indices(image.shape[1:3])
        row, column = (mass * rows).sum(), (mass * columns).sum()
        slope = (mass * (rows - row) * (columns - column)).sum() / (mass * (rows - row) ** 2).sum()
        return row, column, slope

    assert moments(views(bar(), _4=1))[:2] == pytest.approx((14 - MAX_SHIFT, 14), abs=0.1)
    assert moments(views(bar(), _5=1))[:2] == pytest.approx((14, 14 - MAX_SHIFT), abs=0.1)
    turned, sheared = abs(moments(views(bar(), _0=1))[2]), abs(moments(views(bar(), _1=1))[2])
    assert turned == pytest.approx(np.tan(np.deg2rad(MAX_TURN)), rel=0.15)
    assert sheared == pytest.approx(0.15, rel=0.15)
    assert views(bar(), _2=1).sum() == pytest.approx(1.08 * bar().sum(), rel=0.03)
    assert views(bar(), _3=1).sum() == pytest.approx(1.08 * bar().sum(), rel=0.03)


def test_colour_images_are_warped_as_grey_ones_are_and_their_border_is_repeated():
    grey = 0.1 + 0.9 * bar()
    colour = views(np.tile(grey, 3), _0=1, _5=1)
    np.testing.assert_allclose(colour, np.tile(views(grey, _0=1, _5=1), 3), atol=1e-6)
    assert colour.min() == pytest.approx(0.1)


def test_colour_images_change_their_hue_but_not_their_brightness():
    images = np.random.default_rng(0).uniform(0.4, 0.6, (2, 8, 8, 3))
    third = views(images, _6=2 / 3)  # a third of the circle: the channels change places
    assert any(np.allclose(third, np.roll(images, shift, -1), atol=1e-5) for shift in (1, 2))
    np.testing.assert_allclose(views(images, _6=0.3).mean(-1), images.mean(-1), atol=1e-5)
    vivid = views(images, _7=1)
    np.testing.assert_allclose(vivid.mean(-1), images.mean(-1), atol=1e-5)
    assert vivid.std(-1).mean() == pytest.approx(2.5 * images.std(-1).mean(), rel=1e-3)


def test_colour_images_change_contrast_and_brightness_and_are_inverted():
    images = np.random.default_rng(0).uniform(0.4, 0.6, (2, 8, 8, 3))
    np.testing.assert_allclose(views(images, _8=1), 1.3 * (images - 0.5) + 0.5, atol=1e-5)
    np.testing.assert_allclose(views(images, _9=-0.5), 1 - images, atol=1e-5)
    np.testing.assert_allclose(views(images, _9=-0.3), images, atol=1e-5)
    np.testing.assert_allclose(views(images, _10=-1), images - 0.15, atol=1e-5)
