import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import mnist
from infoae_jax.config import AlignmentConfig, parse
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.alignment import Alignment, Helpers
from infoae_jax.models.autoencoder import build
from infoae_jax.training.alignment import align_step, class_maps, init_training
from infoae_jax.training.appearance import num_features
from infoae_jax.training.state import init_state
from infoae_jax.training.stepper import make_align_stepper

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


@pytest.fixture
def data():
    """Latents of three classes, each with a mean, a spread and a bend of its own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, 3000).astype(np.int32)
    z = rng.standard_normal((3000, 4)) * (1 + labels[:, None] * [0.5, 0, 0.2, 0]) + labels[:, None] * [1, -2, 0, 3]
    z[:, 3] += 0.3 * labels * z[:, 0] ** 2
    looks = z[:, [1, 0, 3]] - labels[:, None] * [-2, 1, 0]
    return jnp.asarray(z, jnp.float32), jnp.asarray(labels), jnp.asarray(looks, jnp.float32)


def affine_maps(z, labels, num_classes, looks=None):
    maps = class_maps(z, labels, num_classes, np.asarray(z if looks is None else looks))
    product = np.einsum("nij,njk->nik", maps["matrix"], maps["inverse_matrix"])
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(z.shape[1]), product.shape), atol=1e-3)
    return maps["mean"], maps["matrix"]


def test_directions_of_which_looks_say_nothing_are_not_turned():
    rng = np.random.default_rng(0)
    z, labels = rng.standard_normal((9000, 6)), rng.integers(0, K, 9000)
    _, matrix = affine_maps(z, labels, K, z[:, :2])
    np.testing.assert_allclose(matrix, np.broadcast_to(np.eye(6), matrix.shape), atol=0.1)


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


def test_class_maps_give_all_classes_one_mean_and_covariance(data):
    z, labels, _ = map(np.asarray, data)
    means, matrices = affine_maps(z, labels, K)
    moved = np.einsum("nij,nj->ni", matrices[labels], z - means[labels])
    covariances = [np.cov(moved[labels == c].T) for c in range(K)]
    for c in range(K):
        np.testing.assert_allclose(moved[labels == c].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(covariances[c], np.eye(4), atol=0.05)


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


def train(data, lam, style_weight=0.0, steps=150):
    z, labels, looks = data
    module, training = Alignment(4, K, 4, 32), Helpers(4, K, 32, 3, 10)
    params = module.init(jax.random.key(0), z[:1], jax.nn.one_hot(labels[:1], K))["params"]
    params |= jax.tree.map(jnp.asarray, class_maps(*map(np.asarray, (z, labels)), K, np.asarray(looks)))
    config = AlignmentConfig(epochs=1, batch_size=256, learning_rate=5e-3, style_weight=style_weight, lambda_adv=lam)
    state = params, init_training(training, params, jax.random.key(1))
    step = jax.jit(
        lambda s, rows, t, p: align_step(module, training, config, s, z[rows], labels[rows], looks[rows], t, p)
    )
    history = []
    rng = np.random.default_rng(0)
    for i in range(steps):
        rows, targets = rng.integers(0, len(z), 256), rng.integers(0, K, 256, np.int32)
        state, metrics = step(state, rows, targets, i / steps)
        history.append({name: float(value) for name, value in metrics.items()})
    return module, params, state[0], history


def test_training_makes_the_classes_alike(data):
    from infoae_jax.evaluation.probes import Codes, Mlp, fit_mlp

    module, before, after, history = train(data, lam=0.1)
    assert set(history[0]) == {"log_likelihood", "style", "look", "adversary", "adversary_accuracy"}
    assert history[-1]["log_likelihood"] > history[0]["log_likelihood"] + 0.02
    z, labels, _ = data

    def leak(params, method=None):
        content = jax.nn.one_hot(labels, K)
        u = module.apply({"params": params}, z, content, method=method)
        u, classes = np.asarray(u if method else u[0]), np.asarray(labels)
        return fit_mlp(
            Mlp(K, 256, False),
            6,
            0,
            Codes(u[:2000], classes[:2000]),
            Codes(u[2000:], classes[2000:]),
        )[0]

    affine, aligned = leak(before, "affine"), leak(after)
    assert affine > 0.45  # the bend is still there
    assert aligned < affine - 0.08


def test_affine_map_turns_classes_so_that_directions_look_alike():
    """Each class shows its looks along axes of its own; after the map, along the same."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(K), 1000).astype(np.int32)
    looks = rng.standard_normal((3000, 2)) * [2, 1]
    hidden = np.concatenate([looks / [2, 1], rng.standard_normal((3000, 2))], axis=1)
    axes = [np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(K)]
    z = np.concatenate([hidden[labels == c] @ axes[c] for c in range(K)]).astype(np.float32)
    means, matrices = affine_maps(z, labels, K, looks.astype(np.float32))
    u = np.einsum("nij,nj->ni", matrices[labels], z - means[labels])
    responses = [u[labels == c].T @ looks[labels == c] / 1000 for c in range(K)]
    for response in responses[1:]:
        np.testing.assert_allclose(response, responses[0], atol=0.15)


def test_style_weight_makes_swaps_look_like_their_sources(data):
    """The parts of the map that are rotated away come back."""
    without, with_it = (train(data, lam=0.0, style_weight=w)[3] for w in (0.0, 3.0))
    assert with_it[-1]["style"] < 0.8 * without[-1]["style"]
    assert with_it[-1]["look"] < 0.3 * with_it[0]["look"]


def test_training_moves_nothing_but_the_couplings(data):
    """Also where the loss goes backwards through the map."""
    _, before, after, _ = train(data, lam=0.0, style_weight=3.0, steps=3)
    for name in ("mean", "matrix", "inverse_matrix"):
        np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(after["couplings"]["rotations"], before["couplings"]["rotations"])


@pytest.mark.parametrize("reference", [0, 3])
def test_adversary_works_against_the_map_but_not_on_itself(data, reference):
    module, training = Alignment(4, K, 2, 8), Helpers(4, K, 8, 3, reference)
    z, labels, looks = (rows[:64] for rows in data)
    params = module.init(jax.random.key(0), z, jax.nn.one_hot(labels, K))["params"]

    step = jax.jit(
        lambda c, s: align_step(module, training, c, s, z, labels, looks, labels, jnp.float32(0.5)), static_argnums=0
    )

    def gradients(lam):
        config = AlignmentConfig(epochs=1, batch_size=64, learning_rate=1.0, style_weight=0.0, lambda_adv=lam)
        state = params, init_training(training, params, jax.random.key(1))
        (moved, others), _ = step(config, state)
        return moved, others["params"]["adversary"]

    (with_none, adversary_none), (with_some, adversary_some) = gradients(0.0), gradients(5.0)
    same = jax.tree.map(lambda a, b: np.allclose(a, b), adversary_none, adversary_some)
    assert all(jax.tree.leaves(same))
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), with_none, with_some)
    assert any(jax.tree.leaves(changed))


def test_alignment_is_the_same_on_four_devices():
    """Also the term of swaps, which takes a part of the batch."""
    values = mnist.get_config("tiny")
    values.model.couplings = 2
    config = parse(values)
    model = build(config.model, (8, 8, 1), K)
    rng = np.random.default_rng(0)
    z, looks = (rng.standard_normal((64, n)).astype(np.float32) for n in (model.bottleneck, num_features(1)))
    labels, targets = (rng.integers(0, K, 64, np.int32) for _ in range(2))
    section = AlignmentConfig(epochs=1, batch_size=64, learning_rate=1e-3, style_weight=1.0, lambda_adv=0.5)
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        state = init_state(model, 0)
        carry = state.params["alignment"], state.opt_state["alignment"]
        take = make_align_stepper(model, section, Mesh(np.array(devices), (AXIS,)))
        for _ in range(2):
            carry, metrics = take(carry, z, labels, looks, targets, 0.5)
        found.append((jax.device_get(carry[0]), {name: float(value) for name, value in metrics.items()}))
    (mine, one), (theirs, four) = found
    assert len(jax.devices()) == 4
    assert one == pytest.approx(four, rel=1e-4)
    # Adam divides by the gradient's size, so where it is all but 0 the sign is that of its rounding.
    pairs = zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True)
    assert np.mean(np.concatenate([np.abs(a - b).ravel() for a, b in pairs]) > 1e-5) < 0.01
