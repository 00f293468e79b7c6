import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.refinement import refine_step
from infoae_jax.training.state import traced_weights
from infoae_jax.training.stepper import later_program, make_later_stepper
from tests.small_training import BATCH, call, changed, devices_mesh, distances, init, make

NO_WEIGHTS = {"style_weight": 0.0, "cycle_weight": 0.0, "content_weight": 0.0}


def refine(devices=1, steps=1, **changes):
    """The state before, the state after `steps` steps of the refinement on that many devices, and the metrics."""
    model, config, images, labels = make()
    weights = {"style_weight": 0.1, "cycle_weight": 1.0, "content_weight": 0.1, "content_noise": 0.0}
    config = dataclasses.replace(
        config, refine=dataclasses.replace(config.refine, **{"learning_rate": 1e-3} | weights | changes)
    )
    begin, rows = init(model), np.arange(BATCH)
    tables = images, np.asarray(call(model, begin.params, "encode", images)), labels
    take = make_later_stepper(model, "refine", config, devices_mesh(devices))
    state, history = jax.tree.map(jnp.copy, begin), []
    for _ in range(steps):
        state, metrics = take(state, tables, rows, labels[rows][::-1].copy(), 0.0)
        history.append({name: float(value) for name, value in metrics.items()})
    return begin, state, history


@pytest.mark.slow
def test_without_its_cycle_term_it_is_what_it_is_in_a_group_whose_other_runs_have_the_term(monkeypatch):
    _, ours, (metrics,) = refine(cycle_weight=0.0)
    assert metrics["cycle"] == 0
    model, asked = make()[0], []
    whole = later_program(model, "refine", devices_mesh(1), True)
    monkeypatch.setattr(stepper_module, "later_program", lambda *arguments: asked.append(arguments[-1]) or whole)
    _, theirs, (metrics,) = refine(cycle_weight=0.0)
    assert metrics["cycle"] == 0
    assert max(distances(ours.params, theirs.params).values()) < 1e-5
    *_, (metrics,) = refine(cycle_weight=1.0)
    assert metrics["cycle"] > 0
    assert asked == [False, True]


def test_without_its_cycle_term_it_has_fewer_convolutions():
    model, config, images, labels = make()
    state, z = jax.eval_shape(lambda: init(model)), np.zeros((len(images), model.bottleneck), np.float32)
    arguments = state, images, z, labels, labels, 0.0, traced_weights(config.refine)

    def convolutions(has_cycle):
        step = functools.partial(refine_step, model, has_cycle=has_cycle)
        return str(jax.make_jaxpr(step)(*arguments)).count("conv_general_dilated")

    assert 0 < convolutions(False) < convolutions(True)


def test_it_moves_the_decoder_alone():
    begin, state, _ = refine()
    assert changed(begin.params, state.params) == {"image_decoder"}
    assert int(state.step) == 1


@pytest.fixture(scope="module")
def without():
    return refine(steps=40, learning_rate=5e-3, **NO_WEIGHTS)[2]


@pytest.mark.parametrize("wanted", ["style", "content"])
def test_it_descends_what_it_is_asked_to(wanted, without):
    _, _, history = refine(steps=40, learning_rate=5e-3, **NO_WEIGHTS | {f"{wanted}_weight": 10.0})
    assert history[-1][wanted] < min(0.9 * history[0][wanted], 0.97 * without[-1][wanted])


def test_it_descends_the_errors_of_the_image_and_of_its_way_back():
    weight = 30.0
    begin, state, history = refine(**NO_WEIGHTS | {"cycle_weight": weight})
    model, _, images, labels = make()
    pixels, z = images[:BATCH] / 255.0, call(model, begin.params, "encode", images[:BATCH])
    own, other = labels[:BATCH], labels[:BATCH][::-1].copy()

    def errors(decoder):
        def method(name, *args):
            return model.apply({"params": begin.params | {"image_decoder": decoder}}, *args, method=name)

        there = [jnp.clip(method("decode", z, classes), 0, 1) for classes in (own, other)]
        back = [method("decode", method("encode", p, c), own) for p, c in zip(there, (own, other), strict=True)]
        return jnp.mean((method("decode", z, own) - pixels) ** 2), sum(jnp.mean((b - pixels) ** 2) for b in back) / 2

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


def test_the_classifier_sees_swaps_with_noise():
    plain, noisy = (refine(content_noise=noise)[2][0] for noise in (0.0, 0.2))
    assert plain["content"] != noisy["content"]
    assert {k: plain[k] for k in ("reconstruction", "cycle")} == {k: noisy[k] for k in ("reconstruction", "cycle")}


@pytest.mark.slow
def test_it_is_the_same_on_four_devices():
    _, one, mine = refine(1, 2, content_noise=0.2)
    _, four, theirs = refine(4, 2, content_noise=0.2)
    assert mine[1] == pytest.approx(theirs[1], rel=1e-4)
    assert max(distances(one.params, four.params).values()) < 1e-4
