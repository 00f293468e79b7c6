import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from configs import mnist
from infoae_jax.config import RefineConfig, parse
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import build
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.augment import augment_swaps, shift_images
from infoae_jax.training.autoencoder import epoch_order, gathered_train_step, losses, train_step
from infoae_jax.training.monitor import evaluation_sums
from infoae_jax.training.refinement import refine_step
from infoae_jax.training.state import METRICS, NETWORKS, init_state, make_hyper
from infoae_jax.training.stepper import make_refine_stepper, on_all, refine_program

SHAPE, BATCH = (28, 28, 1), 64


def make(couplings=0, **train):
    values = mnist.get_config("tiny")
    values.train.update(train)
    values.model.couplings, values.model.latent = couplings, "sphere"
    config = parse(values)
    model = build(config.model, SHAPE, 10)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * BATCH, *SHAPE), np.uint8)
    labels = (np.arange(4 * BATCH) % 10).astype(np.int32)
    return model, config.train, images, labels


def init(model):
    return jax.jit(lambda: init_state(model, 0))()


def run(steps=3, **train):
    model, config, images, labels = make(**train)
    take_step = jax.jit(functools.partial(train_step, model, config))
    hyper = make_hyper(config, len(images))
    state, history = init(model), []
    for i in range(steps):
        part = slice(i % 4 * BATCH, (i % 4 + 1) * BATCH)
        state, metrics = take_step(state, images[part], labels[part], hyper)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def parts(tree):
    return {name: [np.asarray(x) for x in jax.tree.leaves(value)] for name, value in tree.items()}


def distance(a, b):
    return {name: max(np.abs(x - y).max() for x, y in zip(a[name], b[name], strict=True)) for name in a}


def test_golden_step():
    """Three steps on fixed data. If you meant to change the training, put the new figures here and say so."""
    _, history = run(adversary_steps=2)
    assert set(history[-1]) == set(METRICS)
    expected = GOLDEN
    for name, value in expected.items():
        np.testing.assert_allclose(history[-1][name], value, rtol=1e-3, err_msg=name)


def test_total_is_equation_3_and_lambda_follows_its_ramp():
    _, history = run(lambda_adv=0.4, lambda_schedule="linear", lambda_ramp=1.0, epochs=1)
    for i, metrics in enumerate(history):
        assert metrics["lambda"] == pytest.approx(0.4 * i / 4)
        total = metrics["reconstruction"] + metrics["lambda"] * metrics["adversary"]
        assert metrics["total"] == pytest.approx(total, rel=1e-6)


def test_learning_rate_decays_to_zero_or_stays():
    _, cosine = run(4, epochs=1, learning_rate=0.01, learning_rate_schedule="cosine")
    np.testing.assert_allclose(
        [m["learning_rate"] for m in cosine], 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-6
    )
    _, constant = run(4, epochs=1, learning_rate=0.01, learning_rate_schedule="constant")
    np.testing.assert_allclose([m["learning_rate"] for m in constant], 0.01, rtol=1e-6)


def test_learning_rate_rises_over_a_tenth_of_the_training():
    _, history = run(20, epochs=5, learning_rate=0.01, learning_rate_schedule="warmup_cosine")
    rates = [m["learning_rate"] for m in history]
    cosine = 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates, [0.5 * cosine[0], *cosine[1:]], rtol=1e-5)


def gradients(lam):
    model, _, images, labels = make()
    params = init(model).params
    pixels = jnp.asarray(images[:BATCH], jnp.float32) / 255
    loss = lambda p: losses(model, p, pixels, jnp.asarray(labels[:BATCH]), jnp.float32(lam))  # noqa: E731
    return jax.jit(jax.grad(loss, has_aux=True))(params)[0], params, model, pixels, labels[:BATCH]


def test_each_network_descends_its_own_loss():
    """Encoder: mse - lambda * adversary. Decoder: mse alone. Adversary and classifier: their cross-entropy, full."""
    lam = 0.3
    ours, params, model, pixels, labels = gradients(lam)

    def one_by_one(name, which):
        def loss(part):
            _, (values, _) = losses(model, {**params, name: part}, pixels, jnp.asarray(labels), jnp.float32(0))
            return values[which]

        return jax.jit(jax.grad(loss))(params[name])

    # The reversal hides the adversary's loss from the encoder at lambda 0, so it is written out here.
    def adversary_of_encoder(part):
        variables = {"params": {**params, "style_encoder": part}}
        z = model.apply(variables, pixels, method="encode_raw")
        logits = model.apply(variables, z, -1.0, method="adversary_logits")  # -(-1): not reversed
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), axis=1))

    adversary = jax.jit(jax.grad(adversary_of_encoder))(params["style_encoder"])
    reconstruction = one_by_one("style_encoder", "reconstruction")
    expected = {
        "style_encoder": jax.tree.map(lambda r, a: r - lam * a, reconstruction, adversary),
        "image_decoder": one_by_one("image_decoder", "reconstruction"),
        "adversary": one_by_one("adversary", "adversary"),
        "content_classifier": one_by_one("content_classifier", "content"),
    }
    for name, error in distance(parts(dict(ours)), parts(expected)).items():
        assert error < 2e-6, name
    assert max(np.abs(x).max() for x in jax.tree.leaves(adversary)) > 1e-3


def test_content_classifier_has_no_part_in_the_rest():
    """Other classifier weights leave every other network's gradient as it is, to the last bit."""
    ours, params, model, pixels, labels = gradients(0.1)
    far = {**params, "content_classifier": jax.tree.map(lambda p: p + 0.1, params["content_classifier"])}
    loss = lambda p: losses(model, p, pixels, jnp.asarray(labels), jnp.float32(0.1))  # noqa: E731
    theirs = jax.jit(jax.grad(loss, has_aux=True))(far)[0]
    for name in ("style_encoder", "image_decoder", "adversary"):
        assert distance(parts(dict(ours)), parts(dict(theirs)))[name] == 0


def test_only_the_content_classifier_sees_shifted_images():
    (plain, without), (shifted, with_it) = run(1), run(1, content_shift=2)
    moved = distance(parts(plain.params), parts(shifted.params))
    assert {name for name, by in moved.items() if by > 0} == {"content_classifier"}
    assert without[0]["content"] != with_it[0]["content"]


def test_shifts_differ_from_step_to_step():
    model, config, images, labels = make(content_shift=2)
    take, hyper = jax.jit(functools.partial(train_step, model, config)), make_hyper(config, len(images))
    begin = init(model)

    def content(at):
        state = dataclasses.replace(begin, step=jnp.int32(at))
        return float(take(state, images[:BATCH], labels[:BATCH], hyper)[1]["content"])

    assert len({content(at) for at in range(6)}) > 3


def test_shifts_are_as_far_as_asked_for():
    image = np.zeros((2, 8, 8, 1), np.float32)
    image[:, 4, 4] = 1
    places = set()
    for i in range(100):
        shifted = np.asarray(shift_images(jnp.asarray(image), 1, jax.random.key(i)))
        assert np.array_equal(shifted[0], shifted[1])
        places.add(tuple(np.argwhere(shifted[0, ..., 0])[0]))
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_the_autoencoders_steps_leave_the_alignment_alone():
    state, _ = run(1, couplings=1)
    begin = init(make(couplings=1)[0])
    same = jax.tree.map(np.array_equal, state.params["alignment"], begin.params["alignment"])
    assert all(jax.tree.leaves(same))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, state.params, begin.params)))


def refine(model, mesh, steps=1, **changes):
    """The state and metrics after `steps` steps of the refinement, on `mesh`'s devices; and the state before."""
    images, labels = (rows[:BATCH] for rows in make()[2:])
    begin = init(model)
    z = np.asarray(model.apply({"params": begin.params}, images, method="encode"))
    weights = {"style_weight": 0.1, "cycle_weight": 1.0, "content_weight": 0.1, "content_noise": 0.0}
    config = RefineConfig(**{"epochs": 1, "learning_rate": 1e-3} | weights | changes)
    take = make_refine_stepper(model, config, mesh)
    state, history = jax.tree.map(jnp.copy, begin), []
    for _ in range(steps):
        state, metrics = take(state, images, z, labels, labels[::-1].copy(), 0.0)
        history.append({name: float(value) for name, value in metrics.items()})
    return begin, state, history


def test_refinement_without_its_cycle_term_draws_nothing_back(monkeypatch):
    """... and is what it is in a group whose other runs have the term."""
    model, *_ = make(couplings=2)
    _, ours, (metrics,) = refine(model, one_device_mesh(), cycle_weight=0.0)
    assert metrics["cycle"] == 0
    whole = refine_program(model, one_device_mesh(), True)
    asked = []
    monkeypatch.setattr(stepper_module, "refine_program", lambda *arguments: asked.append(arguments[-1]) or whole)
    _, theirs, (metrics,) = refine(model, one_device_mesh(), cycle_weight=0.0)
    assert metrics["cycle"] == 0
    assert max(distance(parts(ours.params), parts(theirs.params)).values()) < 1e-5
    *_, (metrics,) = refine(model, one_device_mesh(), cycle_weight=1.0)
    assert metrics["cycle"] > 0
    assert asked == [False, True]


def test_refinement_without_its_cycle_term_has_fewer_convolutions():
    model, _, images, labels = make(couplings=2)
    state = jax.eval_shape(lambda: init(model))
    weights = RefineConfig(1, 1e-3, 0.1, 0.0, 0.1, 0.0)
    arguments = state, images, np.zeros((len(images), model.bottleneck), np.float32), labels, labels, 0.0

    def convolutions(cycle):
        take = functools.partial(refine_step, model, weights, cycle=cycle)
        return str(jax.make_jaxpr(take)(*arguments)).count("conv_general_dilated")

    assert 0 < convolutions(False) < convolutions(True)


def one_device_mesh():
    return Mesh(np.array(jax.devices()[:1]), (AXIS,))


def test_cycle_term_is_the_error_of_the_picture_encoded_and_drawn_again():
    model, _, images, labels = make()
    params, weight = init(model).params, 30.0
    pixels, labels = jnp.asarray(images[:BATCH], jnp.float32) / 255, jnp.asarray(labels[:BATCH])

    def errors(p):
        call = lambda method, *args: model.apply({"params": p}, *args, method=method)  # noqa: E731
        redrawn = call("decode_raw", call("encode_raw", pixels), labels)
        twice = call("decode_raw", call("encode_raw", jnp.clip(redrawn, 0, 1)), labels)
        return jnp.mean((redrawn - pixels) ** 2) + weight * jnp.mean((twice - pixels) ** 2)

    def ours(p):
        total, (found, _) = losses(model, p, pixels, labels, jnp.float32(0), weight)
        return total - found["adversary"] - found["content"]

    (expected, slopes), (total, found) = (jax.jit(jax.value_and_grad(f))(params) for f in (errors, ours))
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for part in ("style_encoder", "image_decoder"):
        pairs = zip(jax.tree.leaves(slopes[part]), jax.tree.leaves(found[part]), strict=True)
        assert all(np.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in pairs)
    (plain, without), (other, with_it) = run(1), run(1, cycle_weight=30.0)
    assert without[0]["cycle"] == 0  # nothing is encoded again
    assert with_it[0]["cycle"] > 0
    moved = distance(parts(plain.params), parts(other.params))
    assert {name for name, by in moved.items() if by > 0} >= {"style_encoder", "image_decoder"}


def test_refinement_moves_the_decoder_alone():
    model, *_ = make(couplings=2)
    begin, state, _ = refine(model, one_device_mesh())
    moved = distance(parts(begin.params), parts(state.params))
    assert {name for name, by in moved.items() if by > 0} == {"image_decoder"}
    assert int(state.step) == 1


@pytest.mark.parametrize("wanted", ["style", "content"])
def test_refinement_descends_what_it_is_asked_to(wanted):
    model, *_ = make(couplings=2)
    nothing = dict.fromkeys(("style_weight", "cycle_weight", "content_weight"), 0.0) | {"learning_rate": 5e-3}
    _, _, without = refine(model, one_device_mesh(), 20, **nothing)
    _, _, history = refine(model, one_device_mesh(), 20, **nothing | {f"{wanted}_weight": 10.0})
    assert history[-1][wanted] < min(0.9 * history[0][wanted], 0.97 * without[-1][wanted])


def test_refinement_descends_the_errors_of_the_image_and_of_its_way_back():
    weight = 30.0
    model, _, images, labels = make(couplings=2)
    weights = {"style_weight": 0.0, "cycle_weight": weight, "content_weight": 0.0}
    begin, state, history = refine(model, one_device_mesh(), **weights)
    pixels, z = images[:BATCH] / 255.0, model.apply({"params": begin.params}, images[:BATCH], method="encode")
    own, other = labels[:BATCH], labels[:BATCH][::-1].copy()

    def errors(decoder):
        def call(method, *args):
            return model.apply({"params": begin.params | {"image_decoder": decoder}}, *args, method=method)

        there = [jnp.clip(call("decode", z, classes), 0, 1) for classes in (own, other)]
        back = [call("decode", call("encode", p, c), own) for p, c in zip(there, (own, other), strict=True)]
        return jnp.mean((call("decode", z, own) - pixels) ** 2), sum(jnp.mean((b - pixels) ** 2) for b in back) / 2

    def total(decoder):
        reconstruction, cycle = errors(decoder)
        return reconstruction + weight * cycle, (reconstruction, cycle)

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(begin.params["image_decoder"])
    assert (history[0]["reconstruction"], history[0]["cycle"]) == pytest.approx(tuple(map(float, found)), rel=1e-4)
    # Adam's first step from fresh moments is the gradient's sign.
    step_taken = jax.tree.map(jnp.subtract, begin.params["image_decoder"], state.params["image_decoder"])
    for by, g in zip(jax.tree.leaves(step_taken), jax.tree.leaves(gradient), strict=True):
        clear = np.abs(g) > 1e-5 * (1 + weight)
        np.testing.assert_allclose(by[clear], 1e-3 * np.sign(g[clear]), rtol=0.02)


def test_pictures_get_noise_and_are_shifted():
    ramp = jnp.linspace(0, 1, 20)
    pictures = jnp.tile((ramp[:, None] + 2 * ramp[None])[None, :, :, None], (64, 1, 1, 3))
    assert np.array_equal(augment_swaps(pictures, 0.0, jnp.int32(0), None), pictures)
    seen, plain = (
        [np.asarray(augment_swaps(pictures, 0.25, jnp.int32(i), None)) for i in range(60)],
        pictures[0, ..., 0],
    )
    every = [(rows, columns) for rows in range(-3, 4) for columns in range(-3, 4)]
    means = [s.mean((0, 3)) for s in seen]  # there the noise averages out
    shifts = [min(every, key=lambda s, m=m: np.abs(np.roll(plain, s, (0, 1)) - m).sum()) for m in means]
    assert all({shift[axis] for shift in shifts} == {-2, -1, 0, 1, 2} for axis in (0, 1))
    noise = [s - np.roll(pictures, shift, (1, 2)) for s, shift in zip(seen[:2], shifts, strict=False)]
    assert noise[0].std() == pytest.approx(0.25, rel=0.02)
    assert abs(noise[0].mean()) < 0.005
    assert not np.allclose(noise[0][0], noise[0][1])
    assert not np.allclose(noise[0], noise[1])


def test_classifier_sees_swaps_with_noise():
    model, *_ = make(couplings=2)
    plain, noisy = (refine(model, one_device_mesh(), content_noise=noise)[2][0] for noise in (0.0, 0.2))
    assert plain["content"] != noisy["content"]
    assert {k: plain[k] for k in ("reconstruction", "cycle")} == {k: noisy[k] for k in ("reconstruction", "cycle")}


def test_refinement_is_the_same_on_four_devices():
    model, *_ = make(couplings=2)
    _, one, mine = refine(model, one_device_mesh(), 2, content_noise=0.2)
    _, four, theirs = refine(model, Mesh(np.array(jax.devices()), (AXIS,)), 2, content_noise=0.2)
    assert mine[1] == pytest.approx(theirs[1], rel=1e-4)
    assert max(distance(parts(one.params), parts(four.params)).values()) < 1e-4


def test_more_adversary_steps_move_the_adversary_alone():
    one, _ = run(1, adversary_steps=1)
    three, _ = run(1, adversary_steps=3)
    moved = distance(parts(dict(one.params)), parts(dict(three.params)))
    assert moved.pop("adversary") > 1e-4
    assert set(moved.values()) == {0}
    assert int(three.opt_state["adversary"][0].count) == 3
    assert int(three.step) == 1


def test_the_optimisers_state_is_called_what_it_is_in_older_checkpoints():
    model, *_ = make()
    state = jax.eval_shape(lambda: init_state(model, 0)).opt_state
    names = {jax.tree_util.keystr(path[:3]) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert names == {f"['{network}'][0].{moment}" for network in NETWORKS for moment in ("count", "mu", "nu")}


def test_sums_are_those_of_the_epoch():
    state, history = run(6)  # 4 steps make an epoch
    assert float(state.sums["count"]) == 2
    for name in METRICS:
        np.testing.assert_allclose(state.sums[name], history[4][name] + history[5][name], rtol=1e-5)


def test_an_epoch_visits_every_image_once_and_no_two_are_alike():
    hyper = make_hyper(make()[1], 4 * BATCH)
    orders = [np.asarray(epoch_order(jnp.int32(at), hyper, 4 * BATCH)) for at in (0, 3, 4)]
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(4 * BATCH))
    np.testing.assert_array_equal(orders[0], orders[1])  # the same epoch
    assert not np.array_equal(orders[0], orders[2])


def test_gathered_step_is_the_plain_step_on_the_batch_it_gathers():
    model, config, images, labels = make()
    hyper = make_hyper(config, len(images))
    order = epoch_order(jnp.int32(0), hyper, len(images))
    state = init(model).replace(step=jnp.int32(2))
    gathered, _ = jax.jit(functools.partial(gathered_train_step, model, config))(state, images, labels, order, hyper)
    batch = np.asarray(order)[2 * BATCH : 3 * BATCH]
    plain, _ = jax.jit(functools.partial(train_step, model, config))(state, images[batch], labels[batch], hyper)
    assert max(distance(parts(dict(gathered.params)), parts(dict(plain.params))).values()) < 1e-6


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_step_lowers_for_accelerators(platform, steps):
    """As it runs there: on several devices, gathering from the data set, in a loop, the state donated."""
    model, config, images, labels = make()
    hyper = make_hyper(config, len(images))
    state = jax.eval_shape(lambda: init_state(model, 0))
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    function = functools.partial(gathered_train_step, model, config, axis=AXIS, steps=steps)
    args = (state, images, labels, epoch_order(jnp.int32(0), hyper, len(images)), hyper)
    exported = jax.export.export(on_all(function, mesh, (PartitionSpec(),) * 5), platforms=[platform])(*args)
    assert exported.platforms == (platform,)
    assert "convolution" in exported.mlir_module()


def test_evaluation_counts_each_image_once():
    model, _, images, labels = make()
    params = init(model).params
    sums_of = jax.jit(functools.partial(evaluation_sums, model))

    def sums(params, images, labels, mask):
        return sums_of(params, images, labels, np.asarray(mask, np.float32))

    everything = sums(params, images[:10], labels[:10], np.ones(10))
    mask = np.arange(16) < 6
    padded = sums(params, images[:16], labels[:16], mask)
    rest = sums(params, images[6:10], labels[6:10], np.ones(4))
    for name, value in everything.items():
        np.testing.assert_allclose(padded[name] + rest[name], value, rtol=1e-5)


GOLDEN = {
    "total": 0.334409,
    "reconstruction": 0.328682,
    "adversary": 2.290786,
    "content": 2.540837,
    "lambda": 0.0025,
    "learning_rate": 0.000853553,
    "gradient_norm": 4.673913,
}
