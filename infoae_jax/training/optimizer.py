"""What the steps of all phases share: a step of an optimiser, the decay of its rate, and the loss of classifiers."""

import optax
from jaxtyping import Array, Float, Int

from infoae_jax.types import OptState, Tree

cosine_decay = optax.cosine_decay_schedule(1.0, 1)  # from 1 to 0, as the progress of a phase goes from 0 to 1


def update(
    optimizer: optax.GradientTransformation, gradient: Tree, opt_state: OptState, params: Tree
) -> tuple[Tree, OptState]:
    """Parameters and optimiser state after one step."""
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def cross_entropy(logits: Float[Array, "b n"], labels: Int[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy in nats, and the share of rows whose largest logit is that of the label."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(axis=1) == labels).mean()
