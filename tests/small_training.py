"""A small model on random images, for tests of training steps that only compare; what is compiled of it is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import build
from infoae_jax.training.autoencoder import train_step
from infoae_jax.training.state import init_state, make_hyper, static_config

SHAPE, BATCH = (8, 8, 1), 16


def make(shape=SHAPE, batch=BATCH, couplings=1, **train):
    """A model and its configuration, and the images and labels of four batches, which are an epoch."""
    values = mnist.get_config("tiny")
    values.train.update(train, batch_size=batch)
    values.model.couplings, values.model.latent, values.log.every_steps = couplings, "sphere", 100
    config = parse(values)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * batch, *shape), np.uint8)
    return build(config.model, shape, 10), config, images, (np.arange(4 * batch) % 10).astype(np.int32)


def init(model):
    """A state with random parameters, as one that `init_state` makes, but nothing is compiled for it."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "params" not in name or len(leaf.shape) < 2:
            return jnp.zeros(leaf.shape, leaf.dtype)
        if "matrix" in name or "rotations" in name:  # to be inverted
            return jnp.broadcast_to(jnp.eye(leaf.shape[-1]), leaf.shape)
        return jnp.asarray(rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, _state_shapes(model))


@functools.lru_cache
def _state_shapes(model):
    return jax.eval_shape(functools.partial(init_state, model), np.uint32(0))


@functools.lru_cache
def step_program(model, config):
    """`train_step`, for a configuration from `static_config`."""
    return jax.jit(functools.partial(train_step, model, config))


def run(steps=3, begin=init, **changes):
    """The state and the metrics of each of `steps` steps, from the state that `begin` makes for the model."""
    model, config, images, labels = make(**changes)
    take_step, hyper = step_program(model, static_config(config.train)), make_hyper(config.train, len(images))
    state, history, batch = begin(model), [], config.train.batch_size
    for i in range(steps):
        rows = slice(i % 4 * batch, (i % 4 + 1) * batch)
        state, metrics = take_step(state, images[rows], labels[rows], hyper)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@functools.lru_cache
def _method_program(model, method):
    return jax.jit(functools.partial(model.apply, method=method))


def call(model, params, method, *args):
    """What a method of the model returns."""
    return _method_program(model, method)({"params": params}, *args)


def devices_mesh(count):
    """That many devices."""
    return Mesh(np.array(jax.devices()[:count]), (AXIS,))


def leaves(tree):
    """Its arrays, on the host."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def distances(a, b):
    """The largest difference in each entry of two dicts of arrays."""
    return {name: max(np.abs(x - y).max() for x, y in zip(leaves(a[name]), leaves(b[name]), strict=True)) for name in a}


def changed(a, b):
    """Names of the entries that differ."""
    return {name for name, by in distances(a, b).items() if by > 0}


def share_far(a, b, far):
    """Share of the numbers that differ by more than `far`.

    Adam turns a gradient's sign into a full step where it is all but zero, so that a few may.
    """
    pairs = zip(leaves(a), leaves(b), strict=True)
    return np.mean(np.concatenate([np.abs(x - y).ravel() for x, y in pairs]) > far)


def assert_identical(a, b):
    """Bit for bit."""
    for mine, theirs in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(mine, theirs)
