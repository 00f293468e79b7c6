import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.devices import batching
from infoae_jax.devices.batching import batch_size, make_batched
from infoae_jax.devices.mesh import data_mesh


@pytest.mark.parametrize("devices", [1, 3, 4])
def test_any_number_of_rows(devices, monkeypatch):
    monkeypatch.setattr(batching, "_MAX_BATCH_PIXELS", 64 * 100)
    mesh = data_mesh(jax.devices()[:devices])
    sizes = []

    def function(variables, images, labels):
        sizes.append(len(images))  # on a device; at tracing, once for each size
        return variables["w"] * images.sum(axis=(1, 2)) + labels[:, None]

    run = make_batched(function, mesh, pixels=100)
    for count in (1, 2, 5, 63, 64, 65, 200, 199):
        images = np.random.default_rng(count).normal(size=(count, 10, 10, 2)).astype(np.float32)
        labels = np.arange(count, dtype=np.int32)
        result = run({"w": jnp.float32(2)}, images, labels)
        np.testing.assert_allclose(result, 2 * images.sum(axis=(1, 2)) + labels[:, None], rtol=1e-4, atol=1e-3)
    assert len(sizes) == len(set(sizes)) <= 7  # of 1, 2, ... 64 images
    assert max(sizes) == -(-64 // devices)


def test_a_batch_never_holds_more_pixels_than_it_may():
    mesh = data_mesh(jax.devices()[:1])
    for side in (8, 28, 100, 512, 5000):
        assert batch_size(10**6, side**2, mesh) * side**2 <= max(batching._MAX_BATCH_PIXELS, side**2)
