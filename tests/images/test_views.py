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


def moments(image):
    """Row and column of the centre of mass, and the slope."""
    mass, (rows, columns) = image[0, ..., 0] / image[..., 0].sum(), np.indices(image.shape[1:3])
    row, column = (mass * rows).sum(), (mass * columns).sum()
    slope = (mass * (rows - row) * (columns - column)).sum() / (mass * (rows - row) ** 2).sum()
    return row, column, slope


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_turned_and_sheared(channels):
    image = np.tile(bar(), channels)
    turned, sheared = (abs(moments(views(image, **{draw: 1}))[2]) for draw in ("_0", "_1"))
    assert turned == pytest.approx(np.tan(np.deg2rad(MAX_TURN)), rel=0.15)
    assert sheared == pytest.approx(0.15, rel=0.15)


def test_grey_images_keep_their_centre_and_their_longer_side():
    def sides(image):
        inked = np.argwhere(image[0, ..., 0] > 0.5)
        return np.ptp(inked, axis=0) + 1

    image = bar(11, 16)
    for draws in ({"_2": 1}, {"_2": -1}, {"_0": 1, "_1": 1}, {"_0": -1, "_3": 1}, {"_4": 1, "_5": 1}):
        found = views(image, **draws)
        assert moments(found)[:2] == pytest.approx((11, 16), abs=0.1)
        assert sides(found)[0] == pytest.approx(13, abs=1)
    assert views(image, _3=1).sum() == pytest.approx(1.08 * image.sum(), rel=0.03)  # wider
    assert views(image, _2=1).sum() == pytest.approx(image.sum() / 1.08, rel=0.03)  # not longer, but narrower
    np.testing.assert_allclose(views(image, _4=1, _5=1), image, atol=1e-6)


def test_grey_images_may_be_dark_on_bright():
    for draws in ({"_0": 1, "_1": 1}, {"_0": -1, "_3": 1}):
        dark = 1 - 0.8 * bar(11, 16)
        np.testing.assert_allclose(views(dark, **draws), 1 - 0.8 * views(bar(11, 16), **draws), atol=1e-5)


def test_views_of_empty_and_full_images_are_finite():
    np.testing.assert_array_equal(views(np.zeros((1, 8, 8, 1)), _0=1), 0)
    np.testing.assert_allclose(views(np.ones((1, 8, 8, 1)), _0=1), 1, atol=1e-6)
    dot = np.zeros((1, 8, 8, 1))
    dot[0, 3, 3] = 1
    assert np.isfinite(views(dot, _0=1)).all()


def test_colour_images_are_shifted_and_scaled_and_their_border_is_repeated():
    colour = np.tile(0.1 + 0.9 * bar(), 3)
    assert views(colour, _0=1, _5=1).min() == pytest.approx(0.1)
    assert moments(views(colour - 0.1, _4=1))[:2] == pytest.approx((14 - MAX_SHIFT, 14), abs=0.1)
    assert moments(views(colour - 0.1, _5=1))[:2] == pytest.approx((14, 14 - MAX_SHIFT), abs=0.1)
    for draw in ("_2", "_3"):
        assert views(colour - 0.1, **{draw: 1}).sum() == pytest.approx(1.08 * (colour - 0.1).sum(), rel=0.03)


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
