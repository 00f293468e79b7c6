"""What the steps of several phases share: a step of an optimiser, the decay of its rate, and losses."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.types import Hyper, OptState, Tree

WARMUP = 0.1  # share of a phase over which the learning rate rises with 'warmup_cosine'
cosine_decay = optax.cosine_decay_schedule(1.0, 1)  # from 1 to 0, as the progress of a phase goes from 0 to 1


def scheduled_rate(schedule: str, hyper: Hyper) -> Float[Array, ""]:
    """The learning rate of a step: 'constant', 'cosine' or 'warmup_cosine'."""
    rate, progress = jnp.asarray(hyper["learning_rate"], jnp.float32), hyper["progress"]
    if schedule != "constant":
        rate = cosine_decay(progress) * rate
    if schedule == "warmup_cosine":
        rate = rate * jnp.minimum(1.0, (progress + 1 / hyper["total_steps"]) / WARMUP)
    return rate


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


def chroma_error(images: Float[Array, "b h w c"], targets: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """Mean squared error of the chroma: of what each pixel's channels differ from their mean by. 0 for grey images.

    Images differ most in lightness, so an autoencoder trained on the squared error alone neglects rare colours.
    """
    error = images - targets
    return jnp.mean((error - error.mean(axis=-1, keepdims=True)) ** 2)
