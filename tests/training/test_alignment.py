import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from sklearn.neighbors import KNeighborsClassifier

from configs import mnist
from infoae_jax.config import Static, parse
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.images.appearance import num_features
from infoae_jax.models.autoencoder import alignment_of, build
from infoae_jax.training import alignment as alignment_module
from infoae_jax.training.alignment import ALIGNMENT, CLASS_DECAY, READERS, align_step, class_maps, match_view
from infoae_jax.training.optimizer import cosine_decay
from infoae_jax.training.run import Run
from infoae_jax.training.schedule import init_state
from tests.small_training import assert_identical, changed, devices_mesh, leaves, make, share_far, take_steps

K = 3


@pytest.fixture(scope="module")
def data():
    """Latents of three classes, each with a mean, a spread and a bend of its own; their labels and appearance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, 3000).astype(np.int32)
    z = rng.standard_normal((3000, 4)) * (1 + labels[:, None] * [0.5, 0, 0.2, 0]) + labels[:, None] * [1, -2, 0, 3]
    z[:, 3] += 0.3 * labels * z[:, 0] ** 2
    appearance = z[:, [1, 0, 3]] - labels[:, None] * [-2, 1, 0]
    features = appearance[:, np.arange(num_features(1)) % 3]  # as many as those of grey images
    return z.astype(np.float32), labels, features.astype(np.float32)


def affine_maps(z, labels, num_classes):
    maps = class_maps(z, labels, num_classes)
    product = np.einsum("nij,njk->nik", maps["matrix"], maps["inverse_matrix"])
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(z.shape[1]), product.shape), atol=1e-3)
    return maps["mean"], maps["matrix"]


def test_class_maps_give_all_classes_one_mean_and_covariance(data, monkeypatch):
    monkeypatch.setattr(alignment_module, "PSEUDO_IMAGES", 0)
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


def test_matched_views_are_spread_as_the_images_of_their_class(data, monkeypatch):
    monkeypatch.setattr(alignment_module, "PSEUDO_IMAGES", 0)
    z, labels, _ = data
    rng = np.random.default_rng(2)
    change = 0.3 * labels[:, None] + rng.normal(size=z.shape) * (0.5 + labels[:, None])
    view = (1.2 * z + change).astype(np.float32)
    plain = class_maps(z, labels, K)
    moved = match_view(view, labels, plain)
    for c in range(K):
        of_class = labels == c
        np.testing.assert_allclose(moved[of_class].mean(0), z[of_class].mean(0), atol=1e-3)
        np.testing.assert_allclose(np.cov(moved[of_class].T), np.cov(z[of_class].T), atol=1e-2)
        assert np.corrcoef(moved[of_class, 0], view[of_class, 0])[0, 1] > 0.9  # each is still a view of its image
    same = match_view(z, labels, plain)
    np.testing.assert_allclose(same, z, atol=1e-4)


def test_classes_of_few_images_are_nearly_whitened_alike(data):
    z, labels, _ = data
    few, many = (affine_maps(z[:number], labels[:number], K)[1] for number in (60, 3000))
    apart = [np.abs(matrices - matrices.mean(0)).max() for matrices in (few, many)]
    assert 0 < 5 * apart[0] < apart[1]


@functools.lru_cache
def trainer(reference):
    """A model with latents of size 4, a fresh state, and the jitted step."""
    values = mnist.get_config("tiny")
    values.model.update(bottleneck=4, couplings=4, coupling_hidden=32, reference_couplings=reference)
    config = parse(values)
    model = build(config.model, (8, 8, 1), K)
    return model, init_state(model, config), jax.jit(functools.partial(align_step, model, Static(())))


def train(data, lam, style_weight=0.0, distance_weight=0.0, steps=150, reference=10, rate=5e-3, decay=0.0):
    """The variables before and after, and the metrics."""
    z, labels, appearance = data
    _, state, step = trainer(reference)
    carry, frozen = ALIGNMENT.carry(state), ALIGNMENT.frozen(state)
    frozen["constants"] = frozen["constants"] | {
        "alignment": frozen["constants"]["alignment"] | class_maps(z, labels, K)
    }
    weights = {"distance_weight": distance_weight, "style_weight": style_weight}
    hyper = {"learning_rate": rate, "lambda_adv": lam, "weight_decay": decay, "views_share": 1.0} | weights
    hyper = {name: np.float32(value) for name, value in hyper.items()}
    hyper |= {"seed": np.uint32(0), "total_steps": np.int32(steps)}
    params, optimizer, history, rng = carry.params, carry.optimizer, [], np.random.default_rng(0)
    for i in range(steps):
        rows = rng.integers(0, len(z), 256)
        batch = {"z": z[rows, None], "labels": labels[rows], "appearance": appearance[rows, None]}
        now = hyper | {"step": np.int32(i), "progress": np.float32((i + 0.5) / steps)}
        params, optimizer, metrics = step(params, frozen, optimizer, batch, now)
        history.append({name: float(value) for name, value in metrics.items()})
    before, after = (frozen | {"params": p} for p in (carry.params, params))
    return before, after, history


def test_training_makes_the_classes_alike(data):
    before, after, history = train(data, lam=0.1)
    assert set(history[0]) == {"log_likelihood", "distance", "style", "appearance", "adversary", "adversary_accuracy"}
    assert history[-1]["log_likelihood"] > history[0]["log_likelihood"] + 0.02
    z, labels, _ = data

    def leakage(variables, method=None):
        own = {name: parts["alignment"] for name, parts in variables.items()}
        u = alignment_of(trainer(10)[0]).apply(own, jnp.asarray(z), jax.nn.one_hot(labels, K), method=method)
        u = np.asarray(u if method else u[0])
        return KNeighborsClassifier(20).fit(u[:2000], labels[:2000]).score(u[2000:], labels[2000:])

    affine, aligned = leakage(before, "affine"), leakage(after)
    assert affine > 0.42  # the bend is still there
    assert aligned < affine - 0.08


def test_style_weight_makes_swaps_look_like_their_sources(data):
    """The parts of the map that are rotated away come back."""
    without, with_it = (train(data, lam=0.0, style_weight=w)[2] for w in (0.0, 3.0))
    assert with_it[-1]["style"] < 0.8 * without[-1]["style"]
    assert with_it[-1]["appearance"] < 0.3 * with_it[0]["appearance"]


def test_distance_weight_keeps_swaps_near_their_sources(data):
    without, with_it = (train(data, lam=0.0, distance_weight=w)[2] for w in (0.0, 3.0))
    assert without[0]["distance"] < 1e-9  # the couplings begin as the identity
    assert with_it[-1]["distance"] < 0.5 * without[-1]["distance"]


def test_training_moves_all_that_is_trained(data):
    before, after, _ = train(data, lam=0.1, style_weight=3.0, steps=3)
    assert changed(before["params"], after["params"]) == {"alignment", "alignment_helpers"}
    for name in ("reference", "adversary", "appearance_reader"):
        assert changed(*({name: v["params"]["alignment_helpers"][name]} for v in (before, after))) == {name}


def test_weights_of_the_map_decay_those_of_the_class_faster_but_neither_biases_nor_readers(data):
    none, some = (train(data, lam=0.1, steps=1, rate=0.1, decay=decay) for decay in (0.0, 2.0))
    rate = 0.1 * cosine_decay(0.5)
    for name in ("alignment", "alignment_helpers"):
        before, kept, decayed = (flatten_dict(variables["params"][name]) for variables in (some[0], none[1], some[1]))
        for path, value in before.items():
            decay = 2.0 if path[-1] == "kernel" and path[0] not in READERS else 0.0
            if decay and path[-2] == "Dense_0":  # latents of size 4: a coupling sees two of their numbers
                decay *= np.where(np.arange(value.shape[1]) < 2, 1, CLASS_DECAY)[None, :, None]
            expected = kept[path] - decay * rate * value
            np.testing.assert_allclose(decayed[path], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reference", [0, 10])
def test_adversary_works_against_the_map_but_not_on_itself(data, reference):
    none, some = (train(data, lam=lam, steps=1, reference=reference, rate=1.0)[1]["params"] for lam in (0.0, 5.0))
    own = [parts["alignment_helpers"]["adversary"] for parts in (none, some)]
    for mine, theirs in zip(*map(leaves, own), strict=True):
        np.testing.assert_allclose(mine, theirs)
    assert share_far(none["alignment"], some["alignment"], 1e-3) > 0


def test_alignment_is_the_same_on_four_devices():
    """Also the term of swaps, which takes a part of the batch, and the draws of their classes and of views."""
    model, config, *_ = make(couplings=2)
    section = dataclasses.replace(
        config.alignment, learning_rate=1e-3, style_weight=1.0, distance_weight=1.0, lambda_adv=0.5
    )
    config, rng = dataclasses.replace(config, alignment=section), np.random.default_rng(0)
    z, appearance = (rng.standard_normal((64, 3, n)).astype(np.float32) for n in (model.bottleneck, num_features(1)))
    tables = {"z": z, "labels": rng.integers(0, 10, 64, np.int32), "appearance": appearance}
    (mine, one), (theirs, four) = (take_steps(model, config, tables, 2, ALIGNMENT, devices) for devices in (1, 4))
    assert one[-1] == pytest.approx(four[-1], rel=1e-4)
    assert share_far(mine.variables["params"], theirs.variables["params"], 1e-5) < 0.01


@pytest.mark.parametrize("match", [False, True])
def test_the_phase_begins_with_the_maps_of_the_classes_and_keeps_them_when_resumed(match, tmp_path, monkeypatch):
    model, config, images, labels = make(couplings=2)
    config = dataclasses.replace(config, alignment=dataclasses.replace(config.alignment, views=2, match_views=match))
    z = np.random.default_rng(0).standard_normal((len(labels), model.bottleneck)).astype(np.float32)
    monkeypatch.setattr(Run, "latents", lambda self, state, method, view=0: z + view)
    data = Dataset(images, labels, tuple("0123456789"))
    run = Run(config, tmp_path, Splits(data, data, "x"), model, "1 x cpu", devices_mesh(1))
    state = init_state(model, config)
    begun, tables = ALIGNMENT.begin(run, state, True)
    # Views that differ by a shift alone are the images again once they are matched.
    expected = [z, z, z] if match else [z, z + 1, z + 2]
    np.testing.assert_allclose(tables["z"], np.stack(expected, axis=1), atol=1e-3 * match)
    assert tables["appearance"].shape == (len(labels), 3, num_features(1))
    found = begun.variables["constants"]["alignment"]
    for name, value in class_maps(z, labels, 10).items():
        np.testing.assert_array_equal(found[name], value)
    assert_identical(ALIGNMENT.begin(run, begun, False)[0], begun)


def one_step(data, offset=0.0, seed=0, progress=0.5, rate=1e-3):
    """The parameters before and after a step, of 100, on images with a view that is off by so much, and its metrics."""
    z, labels, appearance = (values[:256] for values in data)
    _, state, step = trainer(10)
    carry = ALIGNMENT.carry(state)
    batch = {"z": np.stack([z, z + offset], axis=1), "labels": labels}
    batch["appearance"] = np.stack([appearance, appearance + offset], axis=1)
    hyper = dict.fromkeys(("distance_weight", "style_weight"), 1.0)
    hyper |= {"learning_rate": rate, "lambda_adv": 0.1, "weight_decay": 0.0, "progress": progress, "views_share": 0.8}
    hyper = {name: np.float32(value) for name, value in hyper.items()}
    hyper |= {"seed": np.uint32(seed), "step": np.int32(7), "total_steps": np.int32(100)}
    after, _, found = step(carry.params, ALIGNMENT.frozen(state), carry.optimizer, batch, hyper)
    return carry.params, after, {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.1), (0.04, 0.5), (0.5, 0.5)])
def test_the_rate_rises_at_first_and_then_falls(data, progress, share):
    before, after, _ = one_step(data, progress=progress, rate=0.1)
    steps = jax.tree.map(lambda x, y: np.abs(np.asarray(y) - x).max(), before["alignment"], after["alignment"])
    assert max(jax.tree.leaves(steps)) == pytest.approx(0.1 * share, rel=0.01)  # Adam's first is its rate


def test_steps_see_views_and_their_own_appearance(data):
    def metrics(offset, **changes):
        return one_step(data, offset, **changes)[2]

    assert metrics(5.0)["log_likelihood"] < metrics(0.0)["log_likelihood"] - 1
    assert metrics(5.0)["appearance"] > metrics(0.0)["appearance"] + 5
    assert metrics(5.0) != metrics(5.0, seed=1)
    assert metrics(5.0, progress=0.8) == metrics(0.0, progress=0.8)  # the images alone
