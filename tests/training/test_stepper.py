import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.order import autoencoder_order
from infoae_jax.training.state import METRICS, make_hyper, static_config
from infoae_jax.training.stepper import gathered_program, make_stepper, train_program
from tests.small_training import BATCH, devices_mesh, init, make, share_far


def run(steps, devices=4, limit=lambda step: 4 - step % 4, **options):
    """Metrics after each call, steps taken by each, and the last state; 4 steps an epoch, and some images are left."""
    model, config, images, labels = make(**options)
    images, labels = (np.concatenate([rows, rows[:5]]) for rows in (images, labels))
    take = make_stepper(model, config.train, images, labels, devices_mesh(devices))
    state, history, taken = init(model), [], []
    while sum(taken) < steps:
        state, metrics, count = take(state, sum(taken), limit(sum(taken)))
        history.append({name: float(value) for name, value in metrics.items()})
        taken.append(count)
    return history, taken, state


def assert_close(mine, theirs, rtol):
    for name in METRICS:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=rtol, err_msg=name)


@pytest.mark.slow
def test_every_device_holds_the_same_state():
    """`shard_map` is told so, not asked to prove it."""
    _, _, state = run(3)
    for leaf in jax.tree.leaves(state.params):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other)


@pytest.mark.slow
def test_several_steps_a_call_do_what_single_ones_do(monkeypatch):
    single, _, state_single = run(8, devices=2, data_on="host")
    monkeypatch.setattr(stepper_module, "is_cpu", lambda: False)  # the loop is slow on the CPU, but right
    several, taken, state_several = run(8, devices=2, data_on="auto", steps_per_call=3)
    assert taken == [3, 1, 3, 1]  # never beyond the end of an epoch
    for mine, step in zip(several, np.cumsum(taken) - 1, strict=True):
        assert_close(mine, single[step], rtol=2e-3)
    # Sums over the epoch, also of the steps whose metrics were not returned.
    assert_close(state_several.sums, state_single.sums, rtol=2e-3)
    assert share_far(state_several.params, state_single.params, 1e-5) < 0.02


def test_on_the_cpu_each_call_is_one_step():
    _, taken, _ = run(3, devices=2, data_on="device", steps_per_call=3)
    assert taken == [1, 1, 1]


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_step_communicates_once(where):
    """A device waits in each collective for the slowest of them."""
    model, config, images, labels = make()
    static, mesh = static_config(config.train), devices_mesh(4)
    state, hyper = init(model), make_hyper(config.train, len(images))
    if where == "host":
        lowered = train_program(model, static, mesh).lower(state, images[:BATCH], labels[:BATCH], hyper)
    else:
        lowered = gathered_program(model, static, mesh, 1).lower(state, images, labels, labels, hyper)
    text = lowered.compile().as_text()
    assert re.findall(r" (all-[a-z-]+|reduce-scatter|collective-[a-z]+)\(", text) == ["all-reduce"]


def test_the_step_lowers_for_accelerators():
    """As it runs there: on several devices, gathering from the data set, in a loop, the state donated."""
    model, config, images, labels = make()
    hyper = make_hyper(config.train, len(images))
    order = jax.eval_shape(functools.partial(autoencoder_order, num_images=len(images)), jnp.int32(0), hyper)
    program = gathered_program(model, static_config(config.train), devices_mesh(4), 3)
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(program, platforms=[platform])(init(model), images, labels, order, hyper)
        assert exported.platforms == (platform,)
        assert "convolution" in exported.mlir_module()
