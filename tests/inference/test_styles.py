import numpy as np
import pytest
from scipy.spatial.distance import cdist

from infoae_jax.inference.styles import interpolate_latents, nearest, resample


@pytest.fixture(scope="module")
def ring():
    """Styles on a circle: nothing lies near its middle."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 500)
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float32)


def test_nearest_is_what_a_plain_search_finds(ring):
    queries = np.random.default_rng(1).normal(size=(1500, 3)).astype(np.float32)
    found = nearest(queries, ring, 4)
    distances = cdist(queries, ring)
    np.testing.assert_allclose(found.distances, np.sort(distances, 1)[:, :4], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(distances, found.rows, 1), found.distances, atol=1e-4)


def test_new_styles_lie_where_styles_are_and_are_new(ring):
    new = resample(ring, 2000, seed=3)
    assert new.dtype == np.float32
    radius = np.linalg.norm(new, axis=1)
    assert 0.98 < radius.min() <= radius.max() < 1.0001  # noise on each dimension would leave the circle
    assert cdist(new, ring).min(1).mean() > 1e-4
    np.testing.assert_allclose(new.mean(0), ring.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(new.T), np.cov(ring.T), atol=0.04)


def test_few_styles_will_do(ring):
    np.testing.assert_array_equal(resample(ring[:1], 3), ring[[0, 0, 0]])
    two = resample(ring[:2], 50)
    low, high = ring[:2].min(0), ring[:2].max(0)
    assert ((two >= low - 1e-6) & (two <= high + 1e-6)).all()


def test_between_is_even(ring):
    way = interpolate_latents(ring[0], ring[1], 5)
    np.testing.assert_array_equal(way[[0, -1]], ring[:2])
    np.testing.assert_allclose(np.diff(way, axis=0), np.broadcast_to((ring[1] - ring[0]) / 4, (4, 3)), atol=1e-6)
