import jax
import jax.numpy as jnp
import numpy as np

from infoae_jax.training.order import autoencoder_order, later_order, once_an_epoch
from infoae_jax.training.state import make_hyper
from tests.small_training import BATCH, make

COUNT = 4 * BATCH  # 4 steps an epoch


def autoencoder_orders(seed):
    hyper = make_hyper(make(seed=seed)[1].train, COUNT)
    order = jax.jit(lambda step: autoencoder_order(step, hyper, COUNT))
    return [np.asarray(order(jnp.int32(step))) for step in (0, 3, 4)]


def test_an_epoch_of_the_autoencoder_visits_every_image_once_and_no_two_are_alike():
    first, same, second = autoencoder_orders(0)
    np.testing.assert_array_equal(np.sort(first), np.arange(COUNT))
    np.testing.assert_array_equal(first, same)  # the same epoch
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, autoencoder_orders(1)[0])


def test_so_does_one_of_a_later_phase_with_random_classes():
    first, targets = later_order(0, 2, 0, 1000, 5)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    assert set(targets) == set(range(5))
    assert targets.dtype == np.int32
    np.testing.assert_array_equal(first, later_order(0, 2, 0, 1000, 5)[0])
    for seed, epochs_before, epoch in ((1, 2, 0), (0, 3, 0), (0, 2, 1)):
        order, others = later_order(seed, epochs_before, epoch, 1000, 5)
        assert not np.array_equal(order, first)
        assert not np.array_equal(others, targets)


def test_an_order_is_computed_once_an_epoch():
    asked = []
    order = once_an_epoch(lambda *args: asked.append(args) or len(asked), 4)
    assert [order(step, "arguments", step) for step in (2, 3, 4, 5, 7, 8)] == [1, 1, 2, 2, 2, 3]
    assert asked == [("arguments", 2), ("arguments", 4), ("arguments", 8)]
