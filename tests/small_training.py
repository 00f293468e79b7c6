"""A small model on random images, for tests of training steps that only compare, and ways to disturb `fit`."""

import contextlib
import dataclasses
import functools
import os

import jax
import numpy as np
import pytest

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.models.autoencoder import build
from infoae_jax.models.initial import draw
from infoae_jax.training.autoencoder import AUTOENCODER
from infoae_jax.training.schedule import init_state, schedule
from infoae_jax.training.stepper import Layout, Stepper

SHAPE, BATCH = (8, 8, 1), 16


def make(shape=SHAPE, batch=BATCH, couplings=1, **train):
    """A model and its configuration, and the images and labels of four batches, which are an epoch."""
    values = mnist.get_config("tiny")
    values.train.update(train, batch_size=batch)
    values.model.couplings, values.model.latent, values.log.every_steps = couplings, "sphere", 100
    values.alignment.batch_size, values.refine.epochs = batch, 2
    config = parse(values)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * batch, *shape), np.uint8)
    return build(config.model, shape, 10), config, images, (np.arange(4 * batch) % 10).astype(np.int32)


def init_variables(module, seed, *example):
    """Initial variables of any module for arguments like `example`."""
    return draw(jax.eval_shape(lambda: module.init(jax.random.key(0), *example)), seed)


def span_of(config, count, phase=AUTOENCODER, devices=1):
    """When this phase takes its steps on `count` images."""
    return next(span for other, span in schedule(config, count, devices) if other is phase)


def begin(model, config, count, phase=AUTOENCODER, devices=1):
    """A state from which this phase can start, with initial parameters."""
    first = span_of(config, count, phase, devices).first
    return dataclasses.replace(init_state(model, config), step=np.asarray(first, np.int32))


def make_stepper(model, config, tables, phase=AUTOENCODER, devices=1, state=None):
    """It takes the steps of a run; its epochs are those of `span_of`."""
    count, layout = len(tables["labels"]), Layout(devices_mesh(devices))
    state = state or begin(model, config, count, phase, devices)
    return Stepper(model, phase, span_of(config, count, phase, devices), [config], [state], [tables], layout)


def take_steps(model, config, tables, steps, phase=AUTOENCODER, devices=1, state=None):
    """The state after that many steps, one by one, and the metrics of each."""
    state = state or begin(model, config, len(tables["labels"]), phase, devices)
    stepper, first = make_stepper(model, config, tables, phase, devices, state), int(state.step)
    taken = [jax.device_get(stepper.take(step, 1)) for step in range(first, first + steps)]
    history = [{name: float(value) for name, value in metrics.items()} for metrics, _ in taken]
    return jax.device_get(stepper.state(state, 0)), history


def run(steps=3, **changes):
    """The state after that many steps of the autoencoder, and the metrics of each."""
    model, config, images, labels = make(**changes)
    return take_steps(model, config, {"images": images, "labels": labels}, steps)


@functools.lru_cache
def _method_program(model, method):
    return jax.jit(functools.partial(model.apply, method=method))


def call(model, variables, method, *args):
    """What a method of the model returns."""
    return _method_program(model, method)(variables, *args)


def devices_mesh(count):
    """That many devices."""
    return data_mesh(jax.devices()[:count])


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


@contextlib.contextmanager
def after_step(number, action):
    """`fit` calls `action` after the step of this number, counted over all phases from 1.

    The action gets the stepper, and may return something else for what the step returned.
    """
    take = Stepper.take

    def acting(self, step, steps):
        taken = take(self, step, steps)
        return action(self) or taken if step + steps == number else taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "take", acting)
        yield


def interrupt(signal_number):
    """An action: this signal comes."""
    return lambda stepper: os.kill(os.getpid(), signal_number)
