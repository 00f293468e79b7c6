import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.models.alignment import Alignment
from tests.small_training import init_variables

K = 3


def disturbed(module, z, content, scale=0.1):
    """Variables away from the identity: every layer, also those that make no change at first, and the affine part."""
    variables, rng = init_variables(module, 0, z, content), np.random.default_rng(1)

    def noisy(x):
        return x + scale * rng.standard_normal(x.shape).astype(np.float32)

    rotations, *affine = (variables["constants"].pop(name) for name in ("couplings", "mean", "matrix"))
    mean, matrix = map(noisy, affine)
    constants = {"couplings": rotations, "mean": mean, "matrix": matrix, "inverse_matrix": np.linalg.inv(matrix)}
    return {"params": jax.tree.map(noisy, variables["params"]), "constants": constants}


@pytest.mark.parametrize("size", [2, 5])
def test_inverse_is_the_inverse_and_log_determinant_that_of_the_jacobian(size):
    module = Alignment(size, K, 6, 16)
    z = jax.random.normal(jax.random.key(2), (20, size))
    content = jax.nn.one_hot(jnp.arange(20) % K, K)
    variables = disturbed(module, z, content)
    changes = variables["params"]["couplings"]["layers"]["change"]["kernel"]
    assert len(changes) == 6
    assert changes.all()
    with jax.default_matmul_precision("default"):  # what users have
        u, log_det = jax.jit(module.apply)(variables, z, content)
        back = module.apply(variables, u, content, method="inverse")
    assert float(jnp.abs(u - z).max()) > 0.1
    assert float(jnp.abs(log_det).min()) > 1e-3
    np.testing.assert_allclose(back, z, atol=1e-4)

    def one(x, c):
        return module.apply(variables, x[None], c[None])[0][0]

    jacobian = jax.jit(jax.vmap(jax.jacfwd(one)))(z, content)
    whole = jnp.linalg.slogdet(jacobian)[1]
    affine = jnp.linalg.slogdet(variables["constants"]["matrix"])[1][jnp.arange(20) % K]
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
    assert len(products) >= 6
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_untrained_alignment_is_the_identity():
    module = Alignment(8, K, 4, 16)
    z = jax.random.normal(jax.random.key(0), (10, 8))
    content = jax.nn.one_hot(jnp.arange(10) % K, K)
    u, log_det = module.apply(init_variables(module, 1, z, content), z, content)
    np.testing.assert_allclose(u, z, atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-6)
