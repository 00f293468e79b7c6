"""What the steps of all phases share: Adam, the decay of its rate, and the loss of classifiers."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.types import OptState, Tree

# A setting that a program takes as a traced argument, or a section of them by name.
Scalar: TypeAlias = Float[Array | np.ndarray, ""] | float
Weights: TypeAlias = Mapping[str, Scalar]
ADAM = optax.chain(optax.scale_by_adam())  # a chain of one, as checkpoints have it
cosine_decay = optax.cosine_decay_schedule(1.0, 1)  # from 1 to 0, as the progress of a phase goes from 0 to 1


def descend(
    optimizer: optax.GradientTransformation, gradient: Tree, params: Tree, opt_state: OptState, rate: Scalar
) -> tuple[Tree, OptState]:
    """Parameters and optimiser state after one step of size `rate`."""
    direction, opt_state = optimizer.update(gradient, opt_state, params)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state


def cross_entropy(logits: Float[Array, "b n"], labels: Int[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy in nats, and the share of rows whose largest logit is that of the label."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(axis=1) == labels).mean()
