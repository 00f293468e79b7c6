"""Our convolutions against flax's, over random shapes."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from infoae_jax.models import convolution
from infoae_jax.models.convolution import Conv, ConvTranspose

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


def set_up(kind, case, dtype=np.float32, count=2):
    ours, flax = (layer(case["channels"][1], case["kernel"], case["strides"], case["padding"]) for layer in PAIRS[kind])
    rng = np.random.default_rng(case["seed"])
    x = jnp.asarray(rng.normal(size=(count, *case["sides"], case["channels"][0])), dtype)
    variables = jax.tree.map(lambda p: p.astype(dtype), ours.init(jax.random.key(case["seed"]), x))
    return ours, flax, variables, x, rng


@pytest.mark.parametrize("kind", PAIRS)
@settings(deadline=None, max_examples=10)
@given(case=cases())
def test_same_results_and_gradients_as_flax(kind, case):
    if not isinstance(case["padding"], str):
        # Gradients of wider pads crop their input, which jax 0.10 gets wrong on the CPU, in Flax's layers as well (some
        # are 1e27); no layer has such pads.
        assume(all(max(pads) < side for pads, side in zip(case["padding"], case["kernel"], strict=True)))
    ours, flax, variables, x, rng = set_up(kind, case)
    expected = flax.apply(variables, x)
    np.testing.assert_allclose(ours.apply(variables, x), expected, atol=1e-5)
    weights = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)

    def gradients(layer):
        return jax.jit(jax.grad(lambda v, x: jnp.sum(layer.apply(v, x) * weights), argnums=(0, 1)))(variables, x)

    for mine, theirs in zip(jax.tree.leaves(gradients(ours)), jax.tree.leaves(gradients(flax)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@settings(deadline=None, max_examples=12)
@given(case=cases(), a=PADS, size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_all_ways_to_transpose_agree(case, a, size):
    """Each alone, whatever the choice between them: against equation (2), written out."""
    # With less before it a phase crops its input, which jax 0.10 gets wrong on the CPU; no layer has so little.
    assume(all(before >= stride - 1 for before, stride in zip(a, case["strides"], strict=True)))
    rng = np.random.default_rng(case["seed"])
    c, d = case["channels"]
    x = rng.normal(size=(2, *case["sides"], c)).astype(np.float32)
    kernel = rng.normal(size=(*case["kernel"], c, d)).astype(np.float32)
    expected = np.zeros((2, *size, d), np.float32)
    for ti, tj in np.ndindex(*case["kernel"]):
        for i, j in np.ndindex(*case["sides"]):
            row, column = (s * n - t + b for s, n, t, b in zip(case["strides"], (i, j), (ti, tj), a, strict=True))
            if 0 <= row < size[0] and 0 <= column < size[1]:
                expected[:, row, column] += x[:, i, j] @ kernel[ti, tj]
    for way in (convolution._dilated, convolution._phases, convolution._merged):
        result = way(case["strides"], a, size, jnp.asarray(x), jnp.asarray(kernel))
        np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("channels", [(3, 32), (1, 16), (5, 2), (8, 6)])
def test_more_images_than_a_block_and_every_choice_by_channels(kind, channels):
    ours, flax, variables, x, rng = set_up(kind, {**CASE, "kernel": (5, 5), "channels": channels}, count=70)
    weights = jnp.asarray(rng.normal(size=flax.apply(variables, x).shape), jnp.float32)

    def gradients(layer):
        return jax.jit(jax.value_and_grad(lambda v, x: jnp.sum(layer.apply(v, x) * weights), argnums=(0, 1)))(
            variables, x
        )

    for mine, theirs in zip(jax.tree.leaves(gradients(ours)), jax.tree.leaves(gradients(flax)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-3)


def test_what_each_platform_gets():
    """A GPU never sees a dilated input, whose gradients it computes slowly; a TPU does."""
    layer = ConvTranspose(32, (5, 5), (2, 2))
    x = jnp.zeros((2, 7, 7, 64))
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    loss = jax.jit(jax.value_and_grad(lambda v, x: layer.apply(v, x).sum(), argnums=(0, 1)))
    modules = {p: jax.export.export(loss, platforms=[p])(variables, x).mlir_module() for p in ("cpu", "cuda", "tpu")}
    counts = {p: (m.count("stablehlo.convolution("), m.count("lhs_dilate = [2, 2]")) for p, m in modules.items()}
    assert counts == {"cpu": (6, 0), "cuda": (3, 0), "tpu": (3, 1)}


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
    computing_in = type(ours)(ours.features, ours.kernel_size, ours.strides, ours.padding, dtype="bfloat16")
    variables, x = jax.tree.map(lambda p: p.astype(np.float32), (variables, x))
    np.testing.assert_array_equal(computing_in.apply(variables, x), mine)


@pytest.mark.parametrize("kind", PAIRS)
def test_second_derivatives(kind):
    ours, flax, variables, x, _ = set_up(kind, CASE)

    def curvature(layer):
        loss = lambda x: jnp.sum(layer.apply(variables, x) ** 3)  # noqa: E731
        return jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)

    np.testing.assert_allclose(curvature(ours), curvature(flax), rtol=1e-3, atol=1e-3)


RUNS = 3


@pytest.mark.parametrize("shares_images", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_the_gradients_of_a_group_are_those_of_its_runs(kind, shares_images):
    """To 1e-6 of the largest: they are summed in another order."""
    layer = PAIRS[kind][0](4, (5, 5), (2, 2))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(RUNS, 4, 8, 8, 2)), jnp.float32)
    variables = [layer.init(jax.random.key(run), x[0]) for run in range(RUNS)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    weights = jnp.asarray(rng.normal(size=layer.apply(variables[0], x[0]).shape), jnp.float32)
    gradient = jax.grad(lambda v, x: jnp.sum(layer.apply(v, x) ** 2 * weights))
    images = x[0] if shares_images else x
    found = jax.jit(jax.vmap(gradient, in_axes=(0, None if shares_images else 0)))(stacked, images)
    for run, own in enumerate(variables):
        expected = jax.jit(gradient)(own, images if shares_images else images[run])
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine[run], theirs, atol=1e-6 * np.abs(theirs).max())


def test_on_a_gpu_a_group_has_one_filter_gradient_with_a_group_for_each_run():
    """Not one with a kernel as large as the images, which costs many times the products."""
    layer = Conv(4, (5, 5), (2, 2))
    x = jax.ShapeDtypeStruct((RUNS, 8, 28, 28, 2), np.float32)
    variables = jax.eval_shape(jax.vmap(lambda x: layer.init(jax.random.key(0), x)), x)
    gradient = jax.jit(jax.vmap(jax.grad(lambda v, x: jnp.sum(layer.apply(v, x) ** 2))))
    text = jax.export.export(gradient, platforms=["cuda"])(variables, x).mlir_module()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2  # forwards, and for the filters
    assert all(f"group_count = {RUNS} : i64" in line for line in convolutions)
