import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from infoae_jax.devices import collective
from infoae_jax.devices.collective import mean_over, sum_over
from infoae_jax.devices.mesh import data_mesh


@pytest.mark.parametrize(("small", "sent"), [(0, 6), (5, 4), (1000, 2)])
def test_sums_and_means_are_those_of_psum_and_pmean_with_fewer_arrays_sent(small, sent, monkeypatch):
    monkeypatch.setattr(collective, "_MAX_PACKED_SIZE", small)
    devices = len(jax.devices())
    mesh = data_mesh()
    rng = np.random.default_rng(0)
    shapes = {"scalar": (), "vector": (4,), "matrix": (3, 5), "large": (20, 20), "one": (1,)}
    tree = {name: rng.normal(size=(devices, *shape)).astype(np.float32) for name, shape in shapes.items()}
    tree["count"] = np.full((devices, 1), 2**24 + 1, np.int32)  # which float32 does not hold

    def on_each(function):
        def own(tree):
            return function(jax.tree.map(lambda x: x[0], tree), "data")

        return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False))

    for ours, plain in ((sum_over, jax.lax.psum), (mean_over, jax.lax.pmean)):
        jax.tree.map(np.testing.assert_array_equal, on_each(ours)(tree), on_each(plain)(tree))
    assert on_each(sum_over).lower(tree).as_text().count('"stablehlo.all_reduce"') == sent
