import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from infoae_jax.config import Static
from infoae_jax.training import refinement as refinement_module
from infoae_jax.training.refinement import MAX_GRADIENT_NORM, REFINEMENT, refine_step
from infoae_jax.training.schedule import init_state
from infoae_jax.training.stream import shuffled, stream
from tests.small_training import BATCH, SHAPE, begin, call, changed, distances, leaves, make, take_steps

FIRST_EPOCH = 2 + 2 + 1  # those of the autoencoder and of the alignment come before
NO_WEIGHTS = {"style_weight": 0.0, "cycle_weight": 0.0, "swap_weight": 0.0}


def refine(devices=1, steps=1, shape=SHAPE, **changes):
    """The state before, the state after `steps` steps of the refinement on that many devices, and the metrics."""
    model, config, images, labels = make(shape)
    weights = {"style_weight": 0.1, "cycle_weight": 1.0, "swap_weight": 0.1}
    config = dataclasses.replace(
        config, refine=dataclasses.replace(config.refine, **{"learning_rate": 1e-3, "epochs": 100} | weights | changes)
    )
    start = begin(model, config, BATCH, REFINEMENT, devices)
    z = np.asarray(call(model, start.variables, "encode", images[:BATCH]))
    tables = {"images": images[:BATCH], "z": z, "labels": labels[:BATCH]}
    return start, *take_steps(model, config, tables, steps, REFINEMENT, devices, start)


def test_without_its_cycle_term_it_has_fewer_convolutions():
    model, config, images, labels = make()
    state, z = init_state(model, config), np.zeros((len(images), model.bottleneck), np.float32)
    carry, frozen = REFINEMENT.carry(state), REFINEMENT.frozen(state)
    batch = {"images": images, "z": z, "labels": labels}
    scalars = dict.fromkeys(("learning_rate", "style_weight", "swap_weight", "progress"), 0.0)

    def convolutions(weight):
        step = functools.partial(refine_step, model, Static((("chroma_weight", 0.0), ("cycle_weight", weight))))
        hyper = scalars | {"seed": 0, "step": 0}
        return str(jax.make_jaxpr(step)(carry.params, frozen, carry.optimizer, batch, hyper)).count("conv_general")

    assert 0 < convolutions(0.0) < convolutions(1.0)


def test_its_chroma_term_keeps_colours():
    few, many = (refine(steps=60, shape=(8, 8, 3), learning_rate=1e-2, chroma_weight=w)[2] for w in (1e-6, 10.0))
    assert many[-1]["chroma"] < 0.95 * few[-1]["chroma"]


def test_it_moves_the_decoder_alone():
    start, state, _ = refine()
    assert changed(start.variables["params"], state.variables["params"]) == {"image_decoder"}
    assert int(state.step) == int(start.step) + 1


def test_a_huge_gradient_is_bounded():
    def gradient_norm(weight):
        average = optax.tree_utils.tree_get(refine(style_weight=weight)[1].optimizers["refinement"], "mu")
        return 10 * np.sqrt(sum((leaf**2).sum() for leaf in leaves(average)))  # Adam's average began at 0

    assert gradient_norm(0.1) < 0.9 * MAX_GRADIENT_NORM
    assert gradient_norm(1e6) == pytest.approx(MAX_GRADIENT_NORM, rel=1e-3)


def test_it_descends_what_it_is_asked_to(new_programs, monkeypatch):
    # An untrained classifier sees little in images that are shifted.
    monkeypatch.setattr(refinement_module, "augment_swaps", lambda images, *_: images)
    without = refine(steps=100, learning_rate=1e-2, **NO_WEIGHTS)[2]
    for wanted in ("style", "swap"):
        _, _, history = refine(steps=100, learning_rate=1e-2, **NO_WEIGHTS | {f"{wanted}_weight": 10.0})
        assert history[-1][wanted] < min(0.9 * history[0][wanted], 0.97 * without[-1][wanted])


def test_it_descends_the_errors_of_the_image_and_of_its_way_back():
    weight = 30.0
    start, state, history = refine(**NO_WEIGHTS | {"cycle_weight": weight})
    model, _, images, labels = make()
    order = shuffled(0, FIRST_EPOCH, BATCH)
    pixels, z = images[order] / 255.0, call(model, start.variables, "encode", images[order])
    own = labels[order]
    other = jax.random.randint(stream(0, "targets", int(start.step)), (BATCH,), 0, 10)

    def errors(decoder):
        variables = start.variables | {"params": start.variables["params"] | {"image_decoder": decoder}}

        def method(name, *args):
            return model.apply(variables, *args, method=name)

        there = [jnp.clip(method("decode", z, classes), 0, 1) for classes in (own, other)]
        back = [method("decode", method("encode", p, c), own) for p, c in zip(there, (own, other), strict=True)]
        return jnp.mean((method("decode", z, own) - pixels) ** 2), sum(jnp.mean((b - pixels) ** 2) for b in back) / 2

    def total(decoder):
        reconstruction, cycle = errors(decoder)
        return reconstruction + weight * cycle, (reconstruction, cycle)

    decoders = [s.variables["params"]["image_decoder"] for s in (start, state)]
    gradient, found = jax.jit(jax.grad(total, has_aux=True))(decoders[0])
    assert (history[0]["reconstruction"], history[0]["cycle"]) == pytest.approx(tuple(map(float, found)), rel=1e-4)
    # Adam's first step from fresh moments is the gradient's sign.
    step_taken = jax.tree.map(jnp.subtract, *decoders)
    for by, g in zip(jax.tree.leaves(step_taken), jax.tree.leaves(gradient), strict=True):
        clear = np.abs(g) > 1e-5 * (1 + weight)
        np.testing.assert_allclose(by[clear], 1e-3 * np.sign(g[clear]), rtol=0.02)


@pytest.mark.slow
def test_it_is_the_same_on_four_devices():
    _, one, mine = refine(1, 2)
    _, four, theirs = refine(4, 2)
    assert mine[1] == pytest.approx(theirs[1], rel=1e-4)
    assert max(distances(one.variables["params"], four.variables["params"]).values()) < 1e-4
