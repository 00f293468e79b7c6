import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from infoae_jax.config import AlignmentConfig, RefineConfig
from infoae_jax.training.state import METRICS, NETWORKS, init_state, make_hyper, static_config, traced_weights
from tests.small_training import assert_identical, changed, make


def test_a_fresh_state_follows_from_the_seed():
    model, *_ = make(couplings=0)
    init = jax.jit(functools.partial(init_state, model))
    first, same, other = (init(np.uint32(seed)) for seed in (0, 0, 1))
    assert_identical(first, same)
    assert changed(first.params, other.params) == set(first.params)
    assert set(first.sums) == {*METRICS, "count"}
    assert int(first.step) == 0


def test_the_optimisers_state_is_called_what_it_is_in_checkpoints():
    model, *_ = make(couplings=0)
    state = jax.eval_shape(lambda: init_state(model, 0)).opt_state
    names = {jax.tree_util.keystr(path[:3]) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert names == {f"['{network}'][0].{moment}" for network in NETWORKS for moment in ("count", "mu", "nu")}


def test_what_is_traced_is_no_part_of_the_program():
    train = make()[1].train
    other = dataclasses.replace(train, seed=5, learning_rate=0.5, lambda_adv=0.5, lambda_ramp=0.5, epochs=7)
    assert static_config(train) == static_config(other)
    assert static_config(train) != static_config(dataclasses.replace(train, content_shift=1))
    hyper = make_hyper(other, 50)
    assert (int(hyper.steps_per_epoch), int(hyper.total_steps), int(hyper.seed)) == (3, 21, 5)
    assert hyper.seed.dtype == jnp.uint32


def test_weights_of_the_later_phases_are_traced():
    for name, kind in (("alignment", AlignmentConfig), ("refine", RefineConfig)):
        section = getattr(make()[1], name)
        weights = traced_weights(section)
        assert set(weights) == {field.name for field in dataclasses.fields(kind) if field.metadata.get("traced")}
        assert isinstance(section, kind)
        assert all(value == np.float32(getattr(section, field)) for field, value in weights.items())
