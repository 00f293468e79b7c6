import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from infoae_jax.models.alignment import Alignment, AlignmentHelpers
from infoae_jax.training.alignment import align_step, class_maps, init_alignment
from infoae_jax.training.appearance import num_features
from infoae_jax.training.stepper import make_later_stepper
from tests.small_training import changed, devices_mesh, init, leaves, make, share_far

K = 3


@pytest.fixture(scope="module")
def data():
    """Latents of three classes, each with a mean, a spread and a bend of its own; their labels and appearance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, 3000).astype(np.int32)
    z = rng.standard_normal((3000, 4)) * (1 + labels[:, None] * [0.5, 0, 0.2, 0]) + labels[:, None] * [1, -2, 0, 3]
    z[:, 3] += 0.3 * labels * z[:, 0] ** 2
    appearance = z[:, [1, 0, 3]] - labels[:, None] * [-2, 1, 0]
    return z.astype(np.float32), labels, appearance.astype(np.float32)


def affine_maps(z, labels, num_classes, appearance=None):
    maps = class_maps(z, labels, num_classes, z if appearance is None else appearance)
    product = np.einsum("nij,njk->nik", maps["matrix"], maps["inverse_matrix"])
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(z.shape[1]), product.shape), atol=1e-3)
    return maps["mean"], maps["matrix"]


def test_directions_of_which_the_appearance_says_nothing_are_not_rotated():
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((9000, 6)), rng.integers(0, K, 9000)
    _, matrix = affine_maps(z, labels, K, z[:, :2])
    np.testing.assert_allclose(matrix, np.broadcast_to(np.eye(6), matrix.shape), atol=0.1)


def test_class_maps_give_all_classes_one_mean_and_covariance(data):
    z, labels, _ = data
    means, matrices = affine_maps(z, labels, K)
    moved = np.einsum("nij,nj->ni", matrices[labels], z - means[labels])
    for c in range(K):
        np.testing.assert_allclose(moved[labels == c].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(moved[labels == c].T), np.eye(4), atol=0.05)


def test_class_maps_of_equal_classes_are_equal_and_few_images_are_borne():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((4000, 3)).astype(np.float32)
    labels = np.repeat(np.arange(2), 2000).astype(np.int32)
    _, matrices = affine_maps(z, labels, 2)
    np.testing.assert_allclose(matrices[0], matrices[1], atol=0.1)
    labels[:] = 0
    labels[0] = 1  # one image in class 1, none in class 2
    means, matrices = affine_maps(z, labels, 3)
    assert np.isfinite(matrices).all()
    assert np.isfinite(means).all()
    assert np.linalg.cond(matrices).max() < 100


def test_class_maps_rotate_classes_so_that_directions_look_alike():
    """Each class shows its appearance along axes of its own; after the map, along the same."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(K), 1000).astype(np.int32)
    appearance = rng.standard_normal((3000, 2)) * [2, 1]
    hidden = np.concatenate([appearance / [2, 1], rng.standard_normal((3000, 2))], axis=1)
    axes = [np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(K)]
    z = np.concatenate([hidden[labels == c] @ axes[c] for c in range(K)]).astype(np.float32)
    means, matrices = affine_maps(z, labels, K, appearance.astype(np.float32))
    u = np.einsum("nij,nj->ni", matrices[labels], z - means[labels])
    responses = [u[labels == c].T @ appearance[labels == c] / 1000 for c in range(K)]
    for response in responses[1:]:
        np.testing.assert_allclose(response, responses[0], atol=0.15)


MODULE = Alignment(4, K, 4, 32)


@functools.lru_cache
def trainer(reference):
    """The helpers, their state before a training, and its jitted step."""
    helpers = AlignmentHelpers(4, K, 32, 3, reference)
    params = jax.jit(MODULE.init)(jax.random.key(0), jnp.zeros((1, 4)), jnp.zeros((1, K)))["params"]
    others = jax.jit(functools.partial(init_alignment, helpers))(params, jax.random.key(1))
    return params, others, jax.jit(functools.partial(align_step, MODULE, helpers))


def train(data, lam, style_weight=0.0, steps=150, reference=10, rate=5e-3):
    """The map's parameters before and after, those of its helpers after, and the metrics."""
    z, labels, appearance = data
    params, others, step = trainer(reference)
    params = params | class_maps(z, labels, K, appearance)
    weights = {"learning_rate": rate, "style_weight": style_weight, "lambda_adv": lam}
    weights = {name: np.float32(value) for name, value in weights.items()}
    state, history, rng = (params, others), [], np.random.default_rng(0)
    for i in range(steps):
        rows, targets = rng.integers(0, len(z), 256), rng.integers(0, K, 256, np.int32)
        batch = z[rows], labels[rows], appearance[rows], targets
        state, metrics = step(state, *batch, np.float32((i + 0.5) / steps), weights)
        history.append({name: float(value) for name, value in metrics.items()})
    return params, state[0], state[1]["params"], history


def test_training_makes_the_classes_alike(data):
    before, after, _, history = train(data, lam=0.1)
    assert set(history[0]) == {"log_likelihood", "style", "appearance", "adversary", "adversary_accuracy"}
    assert history[-1]["log_likelihood"] > history[0]["log_likelihood"] + 0.02
    z, labels, _ = data

    def leakage(params, method=None):
        u = MODULE.apply({"params": params}, jnp.asarray(z), jax.nn.one_hot(labels, K), method=method)
        u = np.asarray(u if method else u[0])
        return KNeighborsClassifier(20).fit(u[:2000], labels[:2000]).score(u[2000:], labels[2000:])

    affine, aligned = leakage(before, "affine"), leakage(after)
    assert affine > 0.45  # the bend is still there
    assert aligned < affine - 0.08


def test_style_weight_makes_swaps_look_like_their_sources(data):
    """The parts of the map that are rotated away come back."""
    without, with_it = (train(data, lam=0.0, style_weight=w)[3] for w in (0.0, 3.0))
    assert with_it[-1]["style"] < 0.8 * without[-1]["style"]
    assert with_it[-1]["appearance"] < 0.3 * with_it[0]["appearance"]


def test_training_moves_nothing_but_the_couplings(data):
    """Also where the loss goes backwards through the map."""
    before, after, _, _ = train(data, lam=0.0, style_weight=3.0, steps=3)
    assert changed(before, after) == {"couplings"}
    np.testing.assert_array_equal(after["couplings"]["rotations"], before["couplings"]["rotations"])


@pytest.mark.parametrize("reference", [0, 10])
def test_adversary_works_against_the_map_but_not_on_itself(data, reference):
    none, some = (train(data, lam=lam, steps=1, reference=reference, rate=1.0)[1:3] for lam in (0.0, 5.0))
    for mine, theirs in zip(leaves(none[1]["adversary"]), leaves(some[1]["adversary"]), strict=True):
        np.testing.assert_allclose(mine, theirs)
    assert share_far(none[0], some[0], 1e-3) > 0


def test_alignment_is_the_same_on_four_devices():
    """Also the term of swaps, which takes a part of the batch."""
    model, config, _, _ = make(couplings=2)
    section = dataclasses.replace(config.alignment, learning_rate=1e-3, style_weight=1.0, lambda_adv=0.5)
    config, rng = dataclasses.replace(config, alignment=section), np.random.default_rng(0)
    z, appearance = (rng.standard_normal((64, n)).astype(np.float32) for n in (model.bottleneck, num_features(1)))
    labels, targets = (rng.integers(0, 10, 64, np.int32) for _ in range(2))
    found = []
    for devices in (1, 4):
        state = init(model)
        carry = state.params["alignment"], state.opt_state["alignment"]
        take = make_later_stepper(model, "align", config, devices_mesh(devices))
        for _ in range(2):
            carry, metrics = take(carry, (z, labels, appearance), np.arange(64), targets, 0.5)
        found.append((jax.device_get(carry[0]), {name: float(value) for name, value in metrics.items()}))
    (mine, one), (theirs, four) = found
    assert one == pytest.approx(four, rel=1e-4)
    assert share_far(mine, theirs, 1e-5) < 0.01
