import re

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import build
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.state import METRICS, init_state
from infoae_jax.training.stepper import make_stepper

SHAPE, BATCH, COUNT = (28, 28, 1), 64, 300  # 4 steps an epoch


def run(steps, devices=4, most=lambda at: 4 - at % 4, **options):
    """Metrics after each call, steps taken by each, and the last state."""
    values = mnist.get_config("tiny")
    values.train.update(options)
    values.log.every_steps = 100
    config = parse(values)
    model = build(config.model, SHAPE, 10)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (COUNT, *SHAPE), np.uint8), np.arange(COUNT, dtype=np.int32) % 10
    mesh = Mesh(np.array(jax.devices()[:devices]), (AXIS,))
    take = make_stepper(model, config.train, images, labels, mesh)
    init = jax.jit(lambda: init_state(model, 0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    state, history, taken = init(), [], []
    while sum(taken) < steps:
        state, metrics, count = take(state, sum(taken), most(sum(taken)))
        history.append({name: float(value) for name, value in metrics.items()})
        taken.append(count)
    return history, taken, state


def assert_close(mine, theirs, rtol=2e-4):
    for name in METRICS:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=rtol, err_msg=name)


def far_share(a, b):
    """Share of parameters that differ; Adam turns a gradient's sign into a full step where it is almost zero."""
    pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    return np.mean(np.concatenate([np.abs(np.asarray(x) - np.asarray(y)).ravel() for x, y in pairs]) > 1e-5)


def test_every_device_holds_the_same_state():
    """`shard_map` is told so, not asked to prove it."""
    _, _, state = run(3)
    for leaf in jax.tree.leaves(state):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_several_steps_a_call_do_what_single_ones_do(monkeypatch):
    single, _, state_single = run(8, data_on="host")
    monkeypatch.setattr(stepper_module, "_NO_SCAN", ())  # the loop is slow on the CPU, but right
    several, taken, state_several = run(8, data_on="device", steps_per_call=3)
    assert taken == [3, 1, 3, 1]  # never beyond the end of an epoch
    ends = np.cumsum(taken) - 1
    for mine, at in zip(several, ends, strict=True):
        assert_close(mine, single[at], rtol=2e-3)
    for name in METRICS:  # sums over the epoch, also of the steps whose metrics were not returned
        np.testing.assert_allclose(state_several.sums[name], state_single.sums[name], rtol=2e-3)
    assert far_share(state_several, state_single) < 0.02


def test_on_the_cpu_each_call_is_one_step():
    _, taken, _ = run(3, data_on="device", steps_per_call=3)
    assert taken == [1, 1, 1]


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_step_communicates_once(monkeypatch, new_programs, where):
    """A device waits in each collective for the slowest of them."""
    compiled = []
    original = jax.jit

    def spy(function, **options):
        jitted = original(function, **options)
        if options.get("donate_argnums") != 0:
            return jitted

        def call(*args):
            compiled.append(jitted.lower(*args).compile().as_text())
            return jitted(*args)

        return call

    monkeypatch.setattr(jax, "jit", spy)
    run(1, data_on=where)
    collectives = re.findall(r" (all-[a-z-]+|reduce-scatter|collective-[a-z]+)\(", compiled[0])
    assert collectives == ["all-reduce"]
