"""Classifiers trained by one fixed recipe: what probes and judges have in common. Never part of a training loss."""

import dataclasses
import functools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

T = TypeVar("T")
Augment = Callable[[Array, PRNGKeyArray], Array]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW with a cosine to 0 over `epochs` passes through shuffled data."""

    epochs: int
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4


def fit_classifier(
    module: nn.Module,
    inputs: np.ndarray,
    labels: Int[np.ndarray, " n"],
    recipe: Recipe,
    seed: int,
    augment: Augment | None = None,
    after_epoch: Callable[[Any], T] | None = None,
) -> tuple[Any, list[T]]:
    """Minimises the cross-entropy of `module`, which maps (inputs, train: bool) to (logits, penultimate features).

    Args:
      augment: changes a batch of inputs at random; the same function each time, so that it is compiled once.
      after_epoch: called with the variables after every epoch; what it returns is collected.

    Returns:
      The variables of `module` (parameters and running statistics), and what `after_epoch` returned.
    """
    key = jax.random.key(seed)
    variables = dict(module.init(key, jnp.asarray(inputs[:1]), False))
    state = {"variables": variables, "moments": optax.scale_by_adam().init(variables["params"]), "step": jnp.int32(0)}
    batch = min(recipe.batch_size, len(inputs))
    steps_per_epoch = len(inputs) // batch
    total = np.int32(steps_per_epoch * recipe.epochs)
    rng = np.random.default_rng(seed)
    collected = []
    for _ in range(recipe.epochs):
        order = rng.permutation(len(inputs))
        for i in range(steps_per_epoch):
            rows = order[i * batch : (i + 1) * batch]
            state = _step(module, recipe, augment, state, inputs[rows], labels[rows], key, total)
        jax.block_until_ready(state)  # the host runs ahead by an epoch at most
        if after_epoch is not None:
            collected.append(after_epoch(state["variables"]))
    return state["variables"], collected


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _step(
    module: nn.Module,
    recipe: Recipe,
    augment: Augment | None,
    state: dict[str, Any],
    inputs: Array,
    labels: Int[Array, " b"],
    key: PRNGKeyArray,
    total: Int[Array, ""],
) -> dict[str, Any]:
    key = jax.random.fold_in(key, state["step"])
    if augment is not None:
        inputs = augment(inputs, key)
    others = {name: value for name, value in state["variables"].items() if name != "params"}

    def loss(params: Any) -> tuple[Float[Array, ""], Any]:
        (logits, _), updated = module.apply(
            {"params": params, **others}, inputs, True, mutable=list(others), rngs={"dropout": key}
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    params = state["variables"]["params"]
    gradient, updated = jax.grad(loss, has_aux=True)(params)
    direction, moments = optax.scale_by_adam().update(gradient, state["moments"])
    rate = recipe.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * state["step"] / total))
    params = jax.tree.map(lambda p, d: p - rate * (d + recipe.weight_decay * p), params, direction)
    return {"variables": {"params": params, **updated}, "moments": moments, "step": state["step"] + 1}


def each_on_a_device(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The results of independent tasks, run as many at once as there are local devices, each on one of its own."""
    free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
    devices = jax.local_devices()
    for device in devices:
        free.put(device)

    def run(task: Callable[[], T]) -> T:
        device = free.get()
        try:
            with jax.default_device(device):
                return task()
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            return list(pool.map(run, tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have not begun
            raise
