import dataclasses

import jax
import numpy as np
import pytest

from infoae_jax.config import parse
from infoae_jax.images.pixels import pixel_statistics
from infoae_jax.training.alignment import ALIGNMENT
from infoae_jax.training.autoencoder import AUTOENCODER
from infoae_jax.training.refinement import REFINEMENT
from infoae_jax.training.schedule import PHASES, init_state, schedule
from tests.small_training import assert_identical, changed, make


def ends(config, **options):
    return [(phase.name, span.last) for phase, span in schedule(config, 256, **options)]


def test_phases_follow_each_other(tiny):
    """256 images, batches of 64, two epochs."""
    assert ends(parse(tiny)) == [("autoencoder", 8)]
    tiny.refine.epochs = 3
    assert ends(parse(tiny)) == [("autoencoder", 8), ("refinement", 20)]
    tiny.model.couplings, tiny.alignment.epochs, tiny.alignment.batch_size = 2, 5, 100
    assert ends(parse(tiny)) == [("autoencoder", 8), ("alignment", 18), ("refinement", 30)]
    assert [span.epochs_before for _, span in schedule(parse(tiny), 256)] == [0, 2, 7]


@pytest.mark.parametrize(
    ("asked", "devices", "given"), [(64, 4, 64), (1000, 4, 256), (1000, 3, 255), (6, 4, 4), (1, 4, 4)]
)
def test_a_batch_of_the_alignment_is_shared_equally_by_the_devices(tiny, asked, devices, given):
    tiny.model.couplings, tiny.alignment.batch_size = 1, asked
    assert schedule(parse(tiny), 256, devices)[1][1].batch_size == given


def test_epochs_and_events_within_a_phase(tiny):
    """The second phase begins after 8 steps and has 3 in an epoch, of which every 2nd is logged, and the last."""
    tiny.refine.epochs = 2
    span = dataclasses.replace(schedule(parse(tiny), 256)[1][1], steps_per_epoch=3)
    assert (span.first, span.last) == (8, 14)
    assert [span.epoch(step) for step in range(9, 15)] == [1, 1, 1, 2, 2, 2]
    assert [step for step in range(9, 15) if span.epoch_ends(step)] == [11, 14]
    assert [span.steps_until_event(step, 2) for step in range(8, 14)] == [2, 1, 1, 2, 1, 1]
    assert [step for step in range(9, 15) if span.is_event(step, 2)] == [10, 11, 13, 14]
    assert span.call_lengths(8, 2) == {2, 1}
    assert span.call_lengths(8, 3) == {3}
    assert span.call_lengths(9, 3) == {2, 3}


def test_a_fresh_state_follows_from_the_seed_and_compiles_nothing():
    model, config, *_ = make()
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    first, same, second = (init_state(model, c) for c in (config, config, other))
    assert_identical(first, same)
    assert changed(first.variables["params"], second.variables["params"]) == set(first.variables["params"])
    assert {type(leaf) for leaf in jax.tree.leaves(first)} == {np.ndarray}
    assert int(first.step) == 0


def test_pixel_statistics_are_those_of_the_images_and_reach_the_state():
    images = np.random.default_rng(0).integers([[[[0, 100, 200]]]], 256, (50, 8, 12, 3)).astype(np.uint8)
    found, pixels = pixel_statistics(images), images / 255
    mean = pixels.mean((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(found["pixel_mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["pixel_deviation"], (pixels - mean).std(), rtol=1e-6)
    model, config, *_ = make()
    constants = init_state(model, config, found).variables["constants"]
    assert constants["pixel_mean"] is found["pixel_mean"]
    assert constants["alignment"].keys() == init_state(model, config).variables["constants"]["alignment"].keys()


def test_every_phase_has_an_optimiser_for_what_it_trains():
    model, config, *_ = make()
    state = init_state(model, config)
    assert set(state.optimizers) == set(state.sums) == {phase.name for phase in PHASES}
    for phase in PHASES:
        params = {name: state.variables["params"][name] for name in phase.trains}
        moments = [leaf for leaf in jax.tree.leaves(state.optimizers[phase.name]) if leaf.ndim]
        assert sum(m.size for m in moments) == 2 * sum(p.size for p in jax.tree.leaves(params))
    model, config, *_ = make(couplings=0)
    assert set(init_state(model, config).optimizers) == {"autoencoder", "refinement"}


def test_what_a_phase_carries_comes_back_into_the_state():
    model, config, *_ = make()
    state = init_state(model, config)
    for phase in (AUTOENCODER, ALIGNMENT, REFINEMENT):
        carry = jax.tree.map(lambda x: x + 1, phase.carry(state))
        merged = phase.merge(state, carry)
        assert changed(state.variables["params"], merged.variables["params"]) == set(phase.trains)
        assert_identical(merged.variables["constants"], state.variables["constants"])
        assert changed(state.optimizers, merged.optimizers) == {phase.name}
        assert int(merged.step) == 1
        assert_identical(phase.carry(merged), carry)
        assert not set(phase.frozen(state)["params"]) & set(phase.trains)
