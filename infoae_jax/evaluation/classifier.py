"""How probes and judges are trained: one fixed recipe, and a device for each of them. Never part of a training loss."""

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from infoae_jax.devices.computing import computing
from infoae_jax.types import OptState, Params, Variables

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
T = TypeVar("T")
Inputs = Shaped[Array, "b ..."]
Augment = Callable[[Inputs, PRNGKeyArray], Inputs]
State = tuple[Variables, OptState]


def batch_size(count: int) -> int:
    """Returns the size of a batch of `count` training examples."""
    return 256 if count >= 2048 else min(32, count)


def fit_classifier(
    module: nn.Module,
    inputs: Shaped[np.ndarray, "n ..."],
    labels: Int[np.ndarray, " n"],
    epochs: int,
    seed: int,
    augment: Augment | None = None,
    after_epoch: Callable[[Variables], T] | None = None,
) -> tuple[Variables, list[T]]:
    """Minimises the cross-entropy of a classifier: AdamW, with a learning rate that falls to 0 along a cosine.

    Args:
      module: maps `(inputs, train: bool)` to logits.
      seed: of parameters, order, augmentation and dropout.
      augment: changes a batch at random. Pass the same function each time, so that it is compiled once.
      after_epoch: called with the variables after every epoch.

    Returns:
      The variables of `module` (parameters and running statistics), and the results of `after_epoch`.
    """
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    variables = dict(module.init(key, jnp.asarray(inputs[:1]), False))
    state = variables, optax.adamw(LEARNING_RATE).init(variables["params"])
    batch = batch_size(len(inputs))
    steps, results = len(inputs) // batch, []
    for epoch in range(epochs):
        order = rng.permutation(len(inputs))[: steps * batch]
        for i, rows in enumerate(order.reshape(steps, batch)):
            time = np.array([epoch * steps + i, epochs * steps], np.int32)
            state = _step(module, augment, state, inputs[rows], labels[rows], key, time)
        jax.block_until_ready(state)  # the host runs ahead by an epoch at most
        if after_epoch:
            results.append(after_epoch(state[0]))
    return state[0], results


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _step(
    module: nn.Module,
    augment: Augment | None,
    state: State,
    inputs: Inputs,
    labels: Int[Array, " b"],
    key: PRNGKeyArray,
    time: Int[Array, "2"],  # step and number of steps
) -> State:
    (variables, moments), key = state, jax.random.fold_in(key, time[0])
    params, others = variables["params"], {name: value for name, value in variables.items() if name != "params"}
    if augment:
        inputs = augment(inputs, key)

    def loss(params: Params) -> tuple[Float[Array, ""], Variables]:
        logits, updated = module.apply(
            {"params": params, **others}, inputs, True, mutable=list(others), rngs={"dropout": key}
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), dict(updated)

    gradient, updated = jax.grad(loss, has_aux=True)(params)
    rate = LEARNING_RATE * 0.5 * (1 + jnp.cos(jnp.pi * time[0] / time[1]))
    updates, moments = optax.adamw(rate, weight_decay=WEIGHT_DECAY).update(gradient, moments, params)
    return {"params": optax.apply_updates(params, updates), **updated}, moments


def each_on_a_device(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Runs independent tasks, as many at once as there are local devices, each on its own; returns their results."""
    devices = jax.local_devices()
    unused, thread = iter(devices), threading.local()

    def take_device() -> None:
        thread.device = next(unused)

    @computing
    def run(task: Callable[[], T]) -> T:
        with jax.default_device(thread.device):
            return task()

    with ThreadPoolExecutor(len(devices), initializer=take_device) as pool:
        return list(pool.map(run, tasks))  # after an error it cancels the tasks that have not begun
