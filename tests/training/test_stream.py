import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from infoae_jax.devices.mesh import AXIS
from infoae_jax.training.stream import own_rows, shuffled, stream
from tests.small_training import devices_mesh


def test_streams_differ_by_seed_name_and_step():
    keys = [
        jax.random.key_data(stream(seed, name, step)).tolist()
        for seed in (0, 1)
        for name in ("shift", "noise", "targets")
        for step in (0, 1)
    ]
    assert len(set(map(tuple, keys))) == len(keys)
    again = jax.jit(lambda step: jax.random.key_data(stream(jnp.uint32(1), "targets", step)))(jnp.int32(1))
    assert again.tolist() == keys[-1]


def test_an_epoch_visits_every_image_once_and_no_two_are_alike():
    first = shuffled(0, 1, 1000)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    assert first.dtype == np.int32
    np.testing.assert_array_equal(first, shuffled(0, 1, 1000))
    assert not np.array_equal(first, shuffled(0, 2, 1000))
    assert not np.array_equal(first, shuffled(1, 1, 1000))


@pytest.mark.parametrize("devices", [1, 4])
def test_devices_share_one_draw(devices):
    def draw(count):
        return jax.random.normal(jax.random.key(0), (count, 3))

    shared = jax.shard_map(
        lambda: own_rows(draw, 8 // devices, AXIS), mesh=devices_mesh(devices), in_specs=(), out_specs=P(AXIS)
    )
    np.testing.assert_array_equal(jax.jit(shared)(), draw(8))
    np.testing.assert_array_equal(own_rows(draw, 8, None), draw(8))
