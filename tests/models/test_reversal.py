import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infoae_jax.models.reversal import reverse_gradient

LAMBDAS = st.floats(0, 100, width=32)


@settings(deadline=None, max_examples=25)
@given(lam=LAMBDAS, seed=st.integers(0, 100))
def test_identity_forward_and_minus_lambda_times_the_gradient_backward(lam, seed):
    x, weights = np.random.default_rng(seed).normal(size=(2, 3, 4)).astype(np.float32)

    def loss(x, lam):
        return jnp.sum(jnp.tanh(reverse_gradient(x, lam)) * weights)

    plain = jax.grad(lambda x: jnp.sum(jnp.tanh(x) * weights))(x)
    np.testing.assert_array_equal(reverse_gradient(jnp.asarray(x), lam), x)
    for gradient in (jax.grad(loss), jax.jit(jax.grad(loss))):
        np.testing.assert_allclose(gradient(x, jnp.float32(lam)), -lam * plain, rtol=1e-4, atol=1e-5 * (1 + lam))


def test_lambda_is_traced_batched_and_has_no_gradient():
    traces = []

    @jax.jit
    def gradient(lam):
        traces.append(lam)
        return jax.grad(lambda x: reverse_gradient(x, lam) ** 2)(3.0)

    assert [float(gradient(lam)) for lam in (0.0, 0.5, 2.0)] == [0.0, -3.0, -12.0]
    assert len(traces) == 1
    many = jax.vmap(lambda lam: jax.grad(lambda x: reverse_gradient(x, lam))(1.0))(jnp.arange(3.0))
    np.testing.assert_array_equal(many, [-0.0, -1.0, -2.0])
    assert jax.grad(lambda lam: reverse_gradient(jnp.float32(3), lam))(2.0) == 0


def test_low_precision_stays_low():
    gradient = jax.grad(lambda x: reverse_gradient(x, jnp.float32(0.5)).sum())(jnp.ones(2, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
