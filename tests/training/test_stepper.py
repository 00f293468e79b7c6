import re

import jax
import jax.export
import numpy as np
import pytest

from configs import mnist
from infoae_jax.config import parse, split_settings
from infoae_jax.images.appearance import num_features
from infoae_jax.models.autoencoder import build
from infoae_jax.training import stepper as stepper_module
from infoae_jax.training.autoencoder import AUTOENCODER
from infoae_jax.training.schedule import PHASES
from infoae_jax.training.stepper import Layout, step_program, traced_settings
from tests.small_training import begin, devices_mesh, make, make_stepper, share_far, span_of, take_steps


def example(phase):
    """A model, its configuration, and the tables of a phase; 5 images are left over in each epoch."""
    model, config, images, labels = make()
    images, labels = (np.concatenate([rows, rows[:5]]) for rows in (images, labels))
    rng = np.random.default_rng(0)
    z, appearance = (
        rng.standard_normal((len(labels), 2, n)).astype(np.float32) for n in (model.bottleneck, num_features(1))
    )
    z = z if phase.name == "alignment" else z[:, 0]
    names = {"autoencoder": ["images"], "alignment": ["z", "appearance"], "refinement": ["images", "z"]}[phase.name]
    tables = {"images": images, "z": z, "appearance": appearance, "labels": labels}
    return model, config, {name: tables[name] for name in (*names, "labels")}


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_many_steps_in_a_call_do_what_single_ones_do_and_move_nothing(phase, monkeypatch):
    """Over two epochs of four steps; only the order of the next epoch comes to the devices, between calls."""
    model, config, tables = example(phase)
    state, history = take_steps(model, config, tables, 8, phase, devices=2)
    monkeypatch.setattr(stepper_module, "is_resident", lambda *arguments: True)
    start = begin(model, config, len(tables["labels"]), phase, 2)
    stepper, first = make_stepper(model, config, tables, phase, 2, start), int(start.step)
    found = []
    for step, steps in ((0, 3), (3, 1), (4, 4)):
        stepper._order_of(first + step)
        with jax.transfer_guard("disallow_explicit"):
            found.append(stepper.take(first + step, steps))
    for (metrics, _), step in zip(found, (2, 3, 7), strict=True):
        for name, value in history[step].items():
            np.testing.assert_allclose(metrics[name], value, rtol=5e-3, atol=1e-5, err_msg=name)
    for name, total in found[-1][1].items():  # of the second epoch
        mean = np.mean([metrics[name] for metrics in history[4:]])
        np.testing.assert_allclose(total / 4, mean, rtol=5e-3, atol=1e-5, err_msg=name)
    again = jax.device_get(stepper.state(start, 0))
    assert int(again.step) == int(state.step) == first + 8
    assert share_far(again.variables["params"], state.variables["params"], 1e-4) < 0.02


def test_where_the_tables_wait(monkeypatch):
    """On accelerators, unless they would fill half of the memory."""
    rows = {"images": np.zeros((100, 10), np.uint8)}
    assert not stepper_module.is_resident(rows)
    monkeypatch.setattr(stepper_module, "is_cpu", lambda: False)
    for memory, there in ((None, True), ({"bytes_limit": 2001}, True), ({"bytes_limit": 1999}, False)):
        device = type("Device", (), {"memory_stats": lambda self, found=memory: found})()
        monkeypatch.setattr(jax, "local_devices", lambda found=device: [found])
        assert stepper_module.is_resident(rows) == there


@pytest.mark.slow
def test_every_device_holds_the_same_state():
    """`shard_map` is told so, not asked to prove it."""
    model, config, tables = example(AUTOENCODER)
    stepper = make_stepper(model, config, tables, devices=4)
    for step in range(3):
        stepper.take(step, 1)
    for leaf in jax.tree.leaves(stepper._carry):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other)


def lowered(phase, model, config, tables, layout, steps, runs=0):
    """What `Stepper` calls, lowered for shapes alone."""
    count, devices = len(tables["labels"]), 1 if layout.is_group else layout.mesh.size
    span, state = span_of(config, count, phase, devices), begin(model, config, count, phase, devices)
    static, _ = split_settings(phase.section(config))
    order = np.zeros(count, np.int32) if steps else None
    rows = tables if steps else {name: table[: span.batch_size] for name, table in tables.items()}
    shared = {n: r for n, r in rows.items() if not (runs and n in stepper_module.OF_EACH_RUN)}
    arguments = (phase.carry(state), phase.frozen(state), order, traced_settings(phase, span, config))

    def shapes(tree, runs):
        own = (runs,) if runs else ()
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*own, *np.shape(x)), x.dtype), tree)

    carry, frozen, order, hyper = (shapes(tree, runs) for tree in arguments)
    rows = {n: shapes(r, 0 if n in shared else runs) for n, r in rows.items()}
    return step_program(model, phase, static, span.batch_size, layout, steps), (carry, frozen, rows, order, hyper)


@pytest.mark.parametrize("steps", [0, 1], ids=["batch", "tables"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_step_communicates_once(phase, steps):
    """A device waits in each collective for the slowest of them."""
    model, config, tables = example(phase)
    program, arguments = lowered(phase, model, config, tables, Layout(devices_mesh(4)), steps)
    text = program.lower(*arguments).compile().as_text()
    assert re.findall(r" (all-[a-z-]+|reduce-scatter|collective-[a-z]+)\(", text) == ["all-reduce"]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_the_steps_lower_for_accelerators(phase):
    """As they run there: on several devices, gathering from tables, in a loop, the carry donated."""
    model, config, tables = example(phase)
    program, arguments = lowered(phase, model, config, tables, Layout(devices_mesh(4)), 3)
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(program, platforms=[platform])(*arguments)
        assert exported.platforms == (platform,)
        assert "dot_general" in exported.mlir_module()


def test_64_trials_of_mnist_lower_for_cuda():
    config, mesh = parse(mnist.get_config()), devices_mesh(4)
    model = build(config.model, (28, 28, 1), 10)
    tables = {"images": np.broadcast_to(np.uint8(0), (60_000, 28, 28, 1)), "labels": np.zeros(60_000, np.int32)}
    program, arguments = lowered(AUTOENCODER, model, config, tables, Layout(mesh, is_group=True), 2, runs=64)
    exported = jax.export.export(program, platforms=["cuda"])(*arguments)
    assert exported.platforms == ("cuda",)
    assert exported.nr_devices == 4
    assert "all_reduce" not in exported.mlir_module()  # runs have nothing to say to each other
