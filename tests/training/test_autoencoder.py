import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.config import Static, split_settings
from infoae_jax.images.pixels import pixel_statistics
from infoae_jax.training.autoencoder import AUTOENCODER, METRICS, losses, scheduled_lambda, train_step
from infoae_jax.training.schedule import init_state
from infoae_jax.training.stepper import traced_settings
from tests.small_training import (
    BATCH,
    SHAPE,
    assert_identical,
    changed,
    distances,
    leaves,
    make,
    run,
    span_of,
    take_steps,
)

GOLDEN = {
    "total": 0.329163,
    "reconstruction": 0.326127,
    "adversary": 2.42873,
    "content": 2.39569,
    "swap": 2.30715,
    "lambda": 0.00125,
    "learning_rate": 0.000853553,
}


def test_golden_step():
    """Three steps on fixed data. If you meant to change the training, put the new figures here and say so."""
    changes = {"learning_rate": 1e-3, "learning_rate_schedule": "cosine", "lambda_adv": 0.0025}
    _, history = run(shape=(28, 28, 1), batch=64, couplings=0, adversary_steps=2, swap_weight=0.1, **changes)
    assert set(history[-1]) == set(METRICS)
    for name, value in GOLDEN.items():
        np.testing.assert_allclose(history[-1][name], value, rtol=1e-3, err_msg=name)


def test_total_is_equation_3_and_lambda_follows_its_ramp():
    _, history = run(lambda_adv=0.4, lambda_schedule="linear", lambda_ramp=1.0, epochs=1)
    for i, metrics in enumerate(history):
        assert metrics["lambda"] == pytest.approx(0.4 * i / 4)
        total = metrics["reconstruction"] + metrics["lambda"] * metrics["adversary"]
        assert metrics["total"] == pytest.approx(total, rel=1e-6)


def test_a_step_follows_its_schedules():
    _, history = run(4, learning_rate=0.01, learning_rate_schedule="cosine", epochs=1)
    cosine = 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose([metrics["learning_rate"] for metrics in history], cosine, rtol=1e-6)


@pytest.fixture(scope="module")
def batch():
    """A model, its first parameters and constants, and a batch as `losses` takes it."""
    model, config, images, labels = make()
    variables = init_state(model, config, pixel_statistics(images)).variables
    params = {name: variables["params"][name] for name in AUTOENCODER.trains}
    pixels = jnp.asarray(images[:BATCH], jnp.float32) / 255
    pixels = {"images": pixels, "classifier_images": pixels, "labels": jnp.asarray(labels[:BATCH])}
    return model, params, {"constants": variables["constants"]}, pixels


def call_losses(model, variables, batch, lam, cycle_weight=0.0, swap_weight=0.0, progress=1.0, chroma_weight=0.0):
    weights = ("chroma_weight", chroma_weight), ("cycle_weight", cycle_weight), ("swap_weight", swap_weight)
    config = Static(weights)
    return losses(model, config, variables, batch, {"lambda": lam, "seed": 0, "step": 0, "progress": progress})


@pytest.fixture(scope="module")
def gradient(batch):
    """A function of parameters and lambda: the gradient of the objective."""
    model, _, constants, own = batch
    return jax.jit(jax.grad(lambda p, lam: call_losses(model, {**constants, "params": p}, own, lam)[0]))


def test_each_network_descends_its_own_loss(batch, gradient):
    """Encoder: mse - lambda * adversary. Decoder: mse alone. Adversary and classifier: their cross-entropy, full."""
    model, params, constants, own = batch
    pixels, labels, lam = own["images"], own["labels"], 0.3

    # The reversal hides the adversary's loss from the encoder at lambda 0, so it is written out here.
    def adversary_of_encoder(part):
        variables = {**constants, "params": {**params, "style_encoder": part}}
        z = model.apply(variables, pixels, method="encode_raw")
        logits = model.apply(variables, z, -1.0, method="adversary_logits")  # -(-1): not reversed
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), axis=1))

    @jax.jit
    def one_by_one():
        def terms(part, name):
            variables = {**constants, "params": {**params, name: part}}
            return call_losses(model, variables, own, jnp.float32(0))[1][0]

        jacobians = {name: jax.jacrev(terms)(params[name], name) for name in params}
        return jacobians, jax.grad(adversary_of_encoder)(params["style_encoder"])

    by_network, adversary = one_by_one()
    reconstruction = by_network["style_encoder"]["reconstruction"]
    expected = {
        "style_encoder": jax.tree.map(lambda r, a: r - lam * a, reconstruction, adversary),
        "image_decoder": by_network["image_decoder"]["reconstruction"],
        "adversary": by_network["adversary"]["adversary"],
        "content_classifier": by_network["content_classifier"]["content"],
    }
    found = gradient(params, jnp.float32(lam))
    for name, error in distances(expected, found).items():
        assert error < 2e-6, name
    assert max(np.abs(x).max() for x in leaves(adversary)) > 1e-3


def test_content_classifier_has_no_part_in_the_rest(batch, gradient):
    """Other classifier weights leave every other network's gradient as it is, to the last bit."""
    _, params, *_ = batch
    far = {**params, "content_classifier": jax.tree.map(lambda p: p + 0.1, params["content_classifier"])}
    mine, theirs = (gradient(p, jnp.float32(0.1)) for p in (params, far))
    assert changed(mine, theirs) == {"content_classifier"}


def parts(state):
    return state.variables["params"]


def test_only_the_content_classifier_sees_shifted_images():
    (plain, without), (shifted, with_it) = run(1), run(1, shift=2)
    assert changed(parts(plain), parts(shifted)) == {"content_classifier"}
    assert without[0]["content"] != with_it[0]["content"]


def test_shifts_differ_from_step_to_step_and_between_seeds():
    model, config, images, labels = make(shift=2)
    static, _ = split_settings(config.train)
    take = jax.jit(functools.partial(train_step, model, static))
    state = init_state(model, config)
    carry = AUTOENCODER.carry(state)
    batch = {"images": images[:BATCH], "labels": labels[:BATCH]}
    hyper = traced_settings(AUTOENCODER, span_of(config, len(images)), config) | {"progress": np.float32(0)}

    def content(step, seed=0):
        now = hyper | {"step": np.int32(step), "seed": np.uint32(seed)}
        return float(take(carry.params, AUTOENCODER.frozen(state), carry.optimizer, batch, now)[2]["content"])

    assert len({content(step) for step in range(6)}) > 3
    assert len({content(0, seed) for seed in range(6)}) > 3


def test_the_autoencoders_steps_leave_the_alignment_alone():
    state, _ = run(1)
    model, config, *_ = make()
    before = init_state(model, config).variables
    assert changed(before["params"], parts(state)) == set(AUTOENCODER.trains)
    assert_identical(before["constants"], state.variables["constants"])


def test_cycle_term_is_the_error_of_a_reconstruction_encoded_and_decoded_again(batch):
    model, params, constants, own = batch
    pixels, labels, weight = own["images"], own["labels"], 30.0

    def errors(p):
        method = lambda name, *args: model.apply({**constants, "params": p}, *args, method=name)  # noqa: E731
        decoded = method("decode_raw", method("encode_raw", pixels), labels)
        twice = method("decode_raw", method("encode_raw", jnp.clip(decoded, 0, 1)), labels)
        midpoint = jax.lax.stop_gradient(decoded + pixels) / 2
        return jnp.mean((decoded - pixels) ** 2) + weight * jnp.mean((twice - midpoint) ** 2)

    def ours(p):
        total, (found, _) = call_losses(model, {**constants, "params": p}, own, jnp.float32(0), weight)
        return total - found["adversary"] - found["content"]

    (expected, slopes), (total, found) = jax.jit(lambda p: [jax.value_and_grad(f)(p) for f in (errors, ours)])(params)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for part in ("style_encoder", "image_decoder"):
        for a, b in zip(leaves(slopes[part]), leaves(found[part]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    (plain, without), (other, with_it) = run(1), run(1, cycle_weight=weight)
    assert without[0]["cycle"] == 0  # nothing is encoded again
    assert with_it[0]["cycle"] > 0
    assert changed(parts(plain), parts(other)) >= {"style_encoder", "image_decoder"}


def test_the_chroma_term_trains_encoder_and_decoder_to_keep_colours():
    (rare, few), (common, many) = (run(40, shape=(8, 8, 3), epochs=10, chroma_weight=w) for w in (1e-6, 10.0))
    assert changed(parts(rare), parts(common)) >= {"style_encoder", "image_decoder"}
    assert many[-1]["chroma"] < 0.95 * few[-1]["chroma"]
    assert run(1, shape=(8, 8, 3))[1][0]["chroma"] == 0  # left out


def swap_gradient(batch, weight, progress=1.0):
    """The gradient of the objective with swaps in it, and their terms."""
    model, params, constants, own = batch

    def loss(p):
        total, (terms, _) = call_losses(
            model, {**constants, "params": p}, own, jnp.float32(0), swap_weight=weight, progress=progress
        )
        return total, terms

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def test_swaps_train_encoder_and_decoder_alone(batch):
    (plain, without), (swapped, with_it) = swap_gradient(batch, 0.0), swap_gradient(batch, 1.0)
    assert changed(plain, swapped) == {"style_encoder", "image_decoder"}
    assert (without["swap"], without["swap_accuracy"]) == (0, 0)
    assert with_it["swap"] == pytest.approx(np.log(10), rel=0.3)  # the classifier knows nothing yet


def test_the_weight_of_swaps_rises_along_the_phase(batch):
    plain, whole = (swap_gradient(batch, weight)[0]["image_decoder"] for weight in (0.0, 1.0))
    for progress, share in ((0.0, 0), (0.2, 0), (0.35, 0.5), (0.5, 1), (0.9, 1)):
        found = swap_gradient(batch, 1.0, progress)[0]["image_decoder"]
        for p, w, f in zip(leaves(plain), leaves(whole), leaves(found), strict=True):
            np.testing.assert_allclose(f, p + share * (w - p), rtol=1e-3, atol=1e-6)


def test_swaps_learn_to_show_the_class_asked_for():
    """The class is the brightness, and the style is nothing else, so that the decoder could do without the label."""

    def accuracy(weight):
        model, config, _, labels = make(epochs=60, learning_rate=2e-3, swap_weight=weight)
        images = np.broadcast_to((25 * labels).astype(np.uint8)[:, None, None, None], (len(labels), *SHAPE))
        _, history = take_steps(model, config, {"images": images, "labels": labels}, 160)
        return np.mean([metrics["swap_accuracy"] for metrics in history[-60:]])

    assert accuracy(1.0) > max(0.4, 2 * accuracy(1e-6))


@pytest.mark.slow
def test_augmented_images_and_swaps_are_the_same_on_four_devices():
    model, config, images, labels = make(swap_weight=1.0, view_share=0.5, shift=2, augment="all", epochs=1)
    tables = {"images": images, "labels": labels}
    (one, mine), (four, theirs) = (take_steps(model, config, tables, 3, devices=devices) for devices in (1, 4))
    assert mine[-1]["swap"] > 0
    assert mine[-1] == pytest.approx(theirs[-1], rel=1e-3)
    assert max(distances(parts(one), parts(four)).values()) < 1e-3


def test_more_adversary_steps_move_the_adversary_alone():
    (one, _), (three, _) = run(1, adversary_steps=1), run(1)
    moved = distances(parts(one), parts(three))
    assert moved.pop("adversary") > 1e-4
    assert set(moved.values()) == {0}
    assert int(three.optimizers["autoencoder"]["adversary"][0].count) == make()[1].train.adversary_steps == 3
    assert int(three.step) == 1


def test_sums_are_those_of_the_epoch():
    state, history = run(6)  # 4 steps make an epoch
    for name in METRICS:
        np.testing.assert_allclose(state.sums["autoencoder"][name], history[4][name] + history[5][name], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [3, 3, 3, 3]), ("linear", [0, 1.5, 3, 3])],
)
def test_schedules_of_lambda(schedule, expected):
    values = [float(scheduled_lambda(schedule, 3.0, 0.5, progress)) for progress in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_only_the_content_classifier_sees_views():
    (plain, _), (seen, _) = run(1), run(1, view_share=0.5)
    assert changed(parts(plain), parts(seen)) == {"content_classifier"}


def test_all_networks_see_changed_images_if_asked():
    (classifier, _), (both, _) = (run(1, view_share=0.5, shift=2, augment=augment) for augment in ("classifier", "all"))
    assert changed(parts(classifier), parts(both)) == {"style_encoder", "image_decoder", "adversary"}
