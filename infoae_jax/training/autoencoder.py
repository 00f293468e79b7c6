"""Training of the autoencoder with its adversary and content classifier: losses, one step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from infoae_jax.config import TrainConfig
from infoae_jax.devices.collective import sum_over
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.augment import SHIFT_SEED, shift_images
from infoae_jax.training.state import (
    ADAM,
    METRICS,
    NETWORKS,
    Hyper,
    TrainState,
    apply_method,
    cross_entropy,
    split_networks,
)


def scheduled_lambda(
    schedule: str,
    lam: Float[Array, ""] | float,
    ramp: Float[Array, ""] | float,
    progress: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Lambda at a point of the training.

    Args:
      schedule: 'constant', or 'linear' (0 to `lam` over the ramp).
      lam: the final value.
      ramp: share of the training, in (0, 1], over which lambda rises.
      progress: share of the training that is done, in [0, 1].
    """
    share = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0)
    return lam * (jnp.ones_like(share) if schedule == "constant" else share)


_WARMUP = 0.1  # share of the training over which the rate rises, where it does


def losses(
    model: InfoAutoencoder,
    params: Any,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    lam: Float[Array, ""],
    cycle_weight: float = 0.0,
    seen: Float[Array, "b h w c"] | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], Float[Array, "b z"]]]:
    """The objective whose gradient trains all networks at once, its named parts, and the latents.

    The objective is reconstruction (Eq. 1) + adversary loss through the gradient reversal + content loss (Eq. 2).
    The reversal hands the style encoder -lambda times the adversary's gradient while the adversary itself learns at
    full strength; so for network A this descends Eq. 3 of the paper with the sign that its text intends (the encoder
    works against the adversary). The content classifier shares no parameters with the rest and takes the images, so
    no gradient of Eq. 2 reaches network A. 'total' is logged as Eq. 3 states it: mse + lambda * class loss.

    'cycle', with its weight, is added to the objective: the error of the image when its reconstruction is encoded and
    drawn again, without which pictures drift when they are encoded and drawn over and over (the 'composition' of
    Monteiro et al. 2023). Where the weight is 0 nothing is encoded again, and it is logged as 0.

    Args:
      seen: what the content classifier learns from; None: the images as they are.
    """
    z = apply_method(model, params, "encode_raw", images)
    redrawn = apply_method(model, params, "decode_raw", z, labels)
    reconstruction = jnp.mean((redrawn - images) ** 2)
    adversary, adversary_accuracy = cross_entropy(apply_method(model, params, "adversary_logits", z, lam), labels)
    content, content_accuracy = cross_entropy(
        apply_method(model, params, "classify", images if seen is None else seen), labels
    )
    cycle = jnp.float32(0)
    if cycle_weight:
        again = apply_method(model, params, "encode_raw", jnp.clip(redrawn, 0, 1))
        cycle = jnp.mean((apply_method(model, params, "decode_raw", again, labels) - images) ** 2)
    parts = {
        "total": reconstruction + lam * adversary,
        "reconstruction": reconstruction,
        "cycle": cycle,
        "adversary": adversary,
        "adversary_accuracy": adversary_accuracy,
        "content": content,
        "content_accuracy": content_accuracy,
        "lambda": lam,
    }
    return reconstruction + cycle_weight * cycle + adversary + content, (parts, z)


def _over_devices(axis: str, means: Any, z: Float[Array, "b z"], labels: Int[Array, " b"]) -> tuple[Any, Array, Array]:
    """Means over all devices of `means`, and the latents and labels of all of them, by a single `sum_over`.

    A single one, because a device waits in every collective for the slowest of them, and on the CPU holds one of the
    few threads meanwhile. To gather by a sum, each device adds its rows to zeros.
    """
    devices = jax.lax.axis_size(axis)
    rows = jnp.concatenate([z, labels[:, None].astype(z.dtype)], axis=1)  # labels stay exact: < 2**24
    table = jnp.zeros((devices, *rows.shape), rows.dtype).at[jax.lax.axis_index(axis)].set(rows)
    sums, table = sum_over((means, table), axis)
    table = table.reshape(-1, rows.shape[1])
    return jax.tree.map(lambda x: x / devices, sums), table[:, :-1], table[:, -1].astype(labels.dtype)


def train_step(
    model: InfoAutoencoder,
    config: TrainConfig,
    state: TrainState,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    hyper: Hyper,
    axis: str | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One Adam step of every network, then `adversary_steps - 1` more of the adversary on the same latents.

    Several for each of its opponent, as in Goodfellow et al. 2014, Algorithm 1.

    Images are uint8 (0..255), labels 0 .. classes - 1. Returns the new state, and `METRICS` from before the step.

    Args:
      axis: the axis of a `shard_map` over whose devices the batch is divided equally; each then holds its share in
        `images` and `labels`, and returns the same state. None: the whole batch is here.
    """
    progress = state.step / hyper.total_steps
    lam = scheduled_lambda(config.lambda_schedule, hyper.lambda_adv, hyper.lambda_ramp, progress)
    rate = hyper.learning_rate
    if config.learning_rate_schedule != "constant":
        rate = optax.cosine_decay_schedule(1.0, 1)(progress) * rate
    if config.learning_rate_schedule == "warmup_cosine":
        rate = rate * jnp.minimum(1.0, (state.step + 1) / (_WARMUP * hyper.total_steps))

    def descend(gradient, params, opt_state):
        direction, opt_state = ADAM.update(gradient, opt_state, params)
        return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state

    pixels = to_float(images)
    seen = None
    if config.content_shift:
        seen = shift_images(pixels, config.content_shift, jax.random.fold_in(jax.random.key(SHIFT_SEED), state.step))
    trained = {part: state.params[part] for parts in NETWORKS.values() for part in parts}  # all but the alignment
    gradients, (metrics, z) = jax.grad(
        lambda p: losses(model, p, pixels, labels, lam, config.cycle_weight, seen), has_aux=True
    )(trained)
    if axis is not None:
        (gradients, metrics), z, labels = _over_devices(axis, (gradients, metrics), z, labels)
    networks, opt_state = split_networks(state.params), dict(state.opt_state)
    for name, gradient in split_networks(gradients).items():
        networks[name], opt_state[name] = descend(gradient, networks[name], opt_state[name])

    def adversary_loss(params):
        return cross_entropy(apply_method(model, params, "adversary_logits", z, 0.0), labels)[0]

    for _ in range(config.adversary_steps - 1):
        gradient = jax.grad(adversary_loss)(networks["adversary"])
        networks["adversary"], opt_state["adversary"] = descend(gradient, networks["adversary"], opt_state["adversary"])

    metrics = {**metrics, "learning_rate": rate, "gradient_norm": optax.tree.norm(gradients)}
    epoch_begins = state.step % hyper.steps_per_epoch == 0
    kept = {name: jnp.where(epoch_begins, 0.0, value) for name, value in state.sums.items()}
    sums = {name: kept[name] + metrics[name] for name in METRICS} | {"count": kept["count"] + 1}
    params = state.params | {part: value for network in networks.values() for part, value in network.items()}
    return TrainState(state.step + 1, params, opt_state, sums), metrics


def epoch_order(step: Int[Array, ""], hyper: Hyper, num_images: int) -> Int[Array, " n"]:
    """The order in which the epoch of `step` visits the images: derived, so that resume needs nothing else."""
    key = jax.random.fold_in(jax.random.key(hyper.seed), step // hyper.steps_per_epoch)
    return jax.random.permutation(key, num_images)


def gathered_train_step(
    model: InfoAutoencoder,
    config: TrainConfig,
    state: TrainState,
    images: UInt8[Array, "n h w c"],
    labels: Int[Array, " n"],
    order: Int[Array, " n"],
    hyper: Hyper,
    axis: str | None = None,
    steps: int = 1,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """`train_step` on the batch that `order` holds for `state.step`, gathered on the device from the whole data set.

    Args:
      axis: as for `train_step`; each device holds the whole data set and takes its share of the batch, whose size the
        number of devices must divide.
      steps: how many steps to take, within one epoch; the metrics are those of the last.
    """
    devices, device = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    share = config.batch_size // devices

    def one(state: TrainState, _: None) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        start = state.step % hyper.steps_per_epoch * config.batch_size + device * share
        indices = jax.lax.dynamic_slice(order, (start,), (share,))
        return train_step(model, config, state, images[indices], labels[indices], hyper, axis)

    if steps == 1:
        return one(state, None)
    state, metrics = jax.lax.scan(one, state, length=steps)
    return state, jax.tree.map(lambda values: values[-1], metrics)
