"""Our convolutions against flax's, over random shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoae_jax.conv import Conv, ConvTranspose

PAIRS = {"conv": (Conv, nn.Conv), "transpose": (ConvTranspose, nn.ConvTranspose)}
PADS = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def cases(draw):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return {
        "kernel": kernel,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "sides": tuple(draw(st.integers(k, 9)) for k in kernel),
        "padding": draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(PADS, PADS))),
        "channels": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "seed": draw(st.integers(0, 1000)),
    }


def set_up(kind, case, dtype=np.float32):
    ours, flax = (layer(case["channels"][1], case["kernel"], case["strides"], case["padding"]) for layer in PAIRS[kind])
    rng = np.random.default_rng(case["seed"])
    x = jnp.asarray(rng.normal(size=(2, *case["sides"], case["channels"][0])), dtype)
    variables = jax.tree.map(lambda p: p.astype(dtype), ours.init(jax.random.key(case["seed"]), x))
    return ours, flax, variables, x, rng


@pytest.mark.parametrize("kind", PAIRS)
@settings(deadline=None, max_examples=25)
@given(case=cases())
def test_same_results_and_gradients_as_flax(kind, case):
    ours, flax, variables, x, rng = set_up(kind, case)
    expected = flax.apply(variables, x)
    np.testing.assert_allclose(ours.apply(variables, x), expected, atol=1e-5)
    weights = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)

    def gradients(layer):
        return jax.jit(jax.grad(lambda v, x: jnp.sum(layer.apply(v, x) * weights), argnums=(0, 1)))(variables, x)

    for mine, theirs in zip(jax.tree.leaves(gradients(ours)), jax.tree.leaves(gradients(flax)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


CASE = {
    "kernel": (5, 3),
    "strides": (2, 2),
    "sides": (7, 8),
    "padding": "SAME",
    "channels": (2, 3),
    "seed": 0,
}


@pytest.mark.parametrize("kind", PAIRS)
def test_under_vmap(kind):
    ours, flax, variables, x, rng = set_up(kind, CASE)
    stacked = jnp.asarray(rng.normal(size=(3, *x.shape)), jnp.float32)

    def gradient(layer):
        return jax.vmap(lambda x: jax.grad(lambda v: jnp.sum(layer.apply(v, x) ** 2))(variables))(stacked)

    for mine, theirs in zip(jax.tree.leaves(gradient(ours)), jax.tree.leaves(gradient(flax)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PAIRS)
def test_bfloat16(kind):
    ours, flax, variables, x, _ = set_up(kind, CASE, jnp.bfloat16)
    mine, theirs = ours.apply(variables, x), flax.apply(variables, x)
    assert mine.dtype == jnp.bfloat16
    np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", PAIRS)
def test_second_derivatives(kind):
    ours, flax, variables, x, _ = set_up(kind, CASE)

    def curvature(layer):
        loss = lambda x: jnp.sum(layer.apply(variables, x) ** 3)  # noqa: E731
        return jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)

    np.testing.assert_allclose(curvature(ours), curvature(flax), rtol=1e-3, atol=1e-3)
