"""Initial values: their distributions, and what they depend on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.models.alignment import Alignment, Couplings
from infoae_jax.models.autoencoder import build, fresh_variables
from tests.small_training import init_variables

GAINS = {"out": 1, "change": 0}  # of linear outputs and of what begins as no change; before a ReLU: 2


def fresh(seed=0, shape=(28, 28, 1), num_classes=10, **changes):
    """Initial variables of MNIST's model with a learned shared distribution, changed, by name."""
    values = mnist.get_config()
    values.model.update({"reference_couplings": 10, **changes})
    return flatten_dict(fresh_variables(build(parse(values).model, shape, num_classes), seed), sep="/")


class Stack(nn.Module):
    """Nothing but rotations."""

    count: int
    size: int

    @nn.compact
    def __call__(self):
        return self.variable("constants", "rotations", jnp.zeros, (self.count, self.size, self.size)).value


def rotations(count, size, seed=0):
    return init_variables(Stack(count, size), seed)["constants"]["rotations"]


def kernels(variables):
    """By name; those of stacked layers one by one."""
    found = {name: values for name, values in variables.items() if name.endswith("/kernel")}
    stacks = {name: values if "/layers/" in name else values[None] for name, values in found.items()}
    return {f"{i}:{name}": values for name, stack in stacks.items() for i, values in enumerate(stack)}


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_values_follow_from_the_seed_alone(seed):
    one = fresh(seed)
    np.random.default_rng(0).standard_normal(3)  # NumPy's other generators have no influence,
    with jax.default_prng_impl("rbg"):  # nor has the kind of JAX's
        two = fresh(seed)
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == np.float32
        np.testing.assert_array_equal(one[name], two[name])


def test_another_seed_gives_other_kernels_and_rotations():
    one, two = fresh(0), fresh(1)
    drawn = [name for name in one if name.endswith(("kernel", "rotations")) and not name.endswith("change/kernel")]
    assert len(drawn) > 20
    for name in drawn:
        assert np.mean(one[name] == two[name]) < 0.01, name


@pytest.mark.parametrize("decoder", ["dcec", "literal"])
def test_kernels_have_the_variance_that_keeps_the_size_of_signals(decoder):
    found = kernels(fresh(decoder=decoder))
    kinds = {name.split("/")[-2].rstrip("0123456789_") for name in found}
    assert kinds == {"Conv", "ConvTranspose", "Dense", "out", "change"}
    for name, values in found.items():
        deviation = np.sqrt(GAINS.get(name.split("/")[-2], 2) / np.prod(values.shape[:-1]))
        if not deviation:
            assert not values.any(), name
            continue
        # Five standard errors: of a mean, and of a standard deviation.
        assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size), name
        assert abs(values.std() / deviation - 1) < 5 / np.sqrt(2 * values.size), name


def test_no_two_kernels_are_alike():
    found = [values for name, values in kernels(fresh()).items() if not name.endswith("change/kernel")]
    starts = [tuple(np.round(values.ravel()[:4] / values.std(), 3)) for values in found]
    assert len(set(starts)) == len(starts) > 50


def test_biases_and_means_are_zero_deviations_one_and_matrices_the_identity():
    checked = set()
    for name, values in fresh().items():
        kind = name.split("/")[-1]
        if kind in ("bias", "mean", "pixel_mean"):
            assert not values.any(), name
        elif kind == "pixel_deviation":
            assert values == 1
        elif kind in ("matrix", "inverse_matrix"):
            np.testing.assert_array_equal(values, np.broadcast_to(np.eye(16), (10, 16, 16)))
        else:
            assert kind in ("kernel", "rotations"), name
        checked.add(kind)
    assert checked == {
        "bias",
        "mean",
        "matrix",
        "inverse_matrix",
        "kernel",
        "rotations",
        "pixel_mean",
        "pixel_deviation",
    }


@pytest.mark.parametrize("size", [2, 5, 64])
@pytest.mark.parametrize("count", [2, 3, 11])
def test_rotations_are_orthogonal_and_their_product_is_the_identity(count, size):
    found = rotations(count, size)
    assert (found.shape, found.dtype) == ((count, size, size), np.float32)
    for matrix in found:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
        assert np.abs(matrix - np.eye(size)).max() > 0.1
    x = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    y = x
    for matrix in found:
        y = y @ matrix
    np.testing.assert_allclose(y, x, atol=1e-4)


def test_rotations_are_uniformly_distributed():
    """The trace of a uniform one has mean 0 and variance 1 (Diaconis & Shahshahani 1994)."""
    found = np.concatenate([rotations(51, 6, seed)[:-1] for seed in range(40)])
    traces = np.trace(found, axis1=1, axis2=2)
    assert abs(traces.mean()) < 5 / np.sqrt(2000)
    assert abs((traces**2).mean() - 1) < 5 * np.sqrt(2 / 2000)
    assert 0.45 < np.mean(np.linalg.det(found) > 0) < 0.55  # as many reflections as rotations proper


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_fresh_couplings_and_alignments_are_the_identity(count, size):
    x = jax.random.normal(jax.random.key(0), (4, size))
    content = jax.nn.one_hot(jnp.arange(4) % 3, 3)
    for module in (Couplings(size, 3, count, 8), Alignment(size, 3, count, 8)):
        variables = init_variables(module, 0, x, content)
        y, log_det = module.apply(variables, x, content)
        np.testing.assert_allclose(y, x, atol=1e-5)
        np.testing.assert_array_equal(log_det, 0)
        np.testing.assert_allclose(module.apply(variables, x, content, method="inverse"), x, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"couplings": 0}, {"style_encoder", "image_decoder", "adversary", "content_classifier"}),
        ({"reference_couplings": 0}, {"style_encoder", "image_decoder", "alignment", "alignment_helpers"}),
        ({"adversary_hidden": 7}, {"style_encoder", "image_decoder", "alignment", "alignment_helpers"}),
        ({"decoder": "literal"}, {"style_encoder", "adversary", "alignment", "alignment_helpers"}),
    ],
)
def test_the_values_of_a_network_do_not_depend_on_the_others(changes, shared):
    one, two = fresh(), fresh(**changes)
    assert one.keys() != two.keys() or "adversary_hidden" in changes
    same = [name for name in one.keys() & two.keys() if name.split("/")[1] in shared]
    assert {name.split("/")[1] for name in same} == shared
    for name in same:
        np.testing.assert_array_equal(one[name], two[name])
