import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.models.alignment import Alignment

K = 3


def disturbed(module, z, content, scale=0.3):
    """Parameters away from the identity."""
    params = jax.jit(module.init)(jax.random.key(0), z, content)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + scale * jax.random.normal(k, x.shape) * 0.3 for x, k in zip(leaves, keys, strict=True)]
    changed = jax.tree.unflatten(tree, noisy)
    changed["couplings"]["rotations"] = params["couplings"]["rotations"]  # these stay orthogonal
    changed["inverse_matrix"] = jnp.linalg.inv(changed["matrix"])
    return changed


@pytest.mark.parametrize("size", [2, 5])
def test_inverse_is_the_inverse_and_log_determinant_that_of_the_jacobian(size):
    module = Alignment(size, K, 6, 16)
    z = jax.random.normal(jax.random.key(2), (20, size))
    content = jax.nn.one_hot(jnp.arange(20) % K, K)
    params = disturbed(module, z, content)
    with jax.default_matmul_precision("default"):  # what users have
        u, log_det = jax.jit(module.apply)({"params": params}, z, content)
        back = module.apply({"params": params}, u, content, method="inverse")
    assert float(jnp.abs(u - z).max()) > 0.1
    np.testing.assert_allclose(back, z, atol=1e-4)

    def one(x, c):
        return module.apply({"params": params}, x[None], c[None])[0][0]

    jacobian = jax.jit(jax.vmap(jax.jacfwd(one)))(z, content)
    whole = jnp.linalg.slogdet(jacobian)[1]
    affine = jnp.linalg.slogdet(params["matrix"])[1][jnp.arange(20) % K]
    np.testing.assert_allclose(log_det + affine, whole, atol=1e-4)


@pytest.mark.parametrize("method", ["__call__", "inverse"])
def test_no_gpu_rounds_the_factors_of_a_product(method):
    module = Alignment(4, K, 2, 8)
    z, content = jnp.zeros((2, 4)), jnp.zeros((2, K))
    variables = jax.eval_shape(module.init, jax.random.key(0), z, content)
    with jax.default_matmul_precision("default"):  # what users have
        program = jax.jit(functools.partial(module.apply, method=method))
        text = jax.export.export(program, platforms=["cuda"])(variables, z, content).mlir_module()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 10
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_untrained_alignment_is_the_identity():
    module = Alignment(8, K, 4, 16)
    z = jax.random.normal(jax.random.key(0), (10, 8))
    content = jax.nn.one_hot(jnp.arange(10) % K, K)
    params = module.init(jax.random.key(1), z, content)["params"]
    u, log_det = module.apply({"params": params}, z, content)
    np.testing.assert_allclose(u, z, atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)
