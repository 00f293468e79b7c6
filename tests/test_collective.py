import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from infoae_jax import collective


@pytest.mark.parametrize("small", [0, 5, 1000])
def test_sums_and_means_are_those_of_psum_and_pmean_however_the_arrays_are_packed(small, monkeypatch):
    monkeypatch.setattr(collective, "_SMALL", small)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rng = np.random.default_rng(0)
    shapes = {"scalar": (), "vector": (4,), "matrix": (3, 5), "large": (20, 20), "one": (1,)}
    tree = {name: rng.normal(size=(len(jax.devices()), *shape)).astype(np.float32) for name, shape in shapes.items()}

    def both(tree):
        own = jax.tree.map(lambda x: x[0], tree)
        packed = collective.sum_over(own, "data"), collective.mean_over(own, "data")
        return packed, (jax.lax.psum(own, "data"), jax.lax.pmean(own, "data"))

    got, want = jax.jit(jax.shard_map(both, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False))(tree)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert got[0]["matrix"].shape == (3, 5)
    assert got[0]["scalar"].dtype == jnp.float32
