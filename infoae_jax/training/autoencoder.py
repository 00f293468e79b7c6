"""Training of the autoencoder with its adversary and content classifier: lambda, the losses, one step."""

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
from infoae_jax.training.optimizer import ADAM, cosine_decay, cross_entropy, descend
from infoae_jax.training.state import METRICS, NETWORKS, Hyper, TrainState, apply_method, split_networks
from infoae_jax.types import Metrics, Params, Tree

WARMUP = 0.1  # share of the phase over which the learning rate rises with 'warmup_cosine'
Scalar = Float[Array, ""] | float


def scheduled_lambda(schedule: str, lam: Scalar, ramp: Scalar, progress: Scalar) -> Float[Array, ""]:
    """Lambda at a point of the training, `progress` in [0, 1]; it acts in `models.reversal.reverse_gradient`.

    Args:
      schedule: 'constant' (always `lam`), or 'linear' (0 to `lam` over the first `ramp`, in (0, 1], of the training).
    """
    share = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0)
    return lam * (jnp.ones_like(share) if schedule == "constant" else share)


def losses(
    model: InfoAutoencoder,
    params: Params,
    images: Float[Array, "b h w c"],
    labels: Int[Array, " b"],
    lam: Float[Array, ""],
    cycle_weight: float = 0.0,
    classifier_images: Float[Array, "b h w c"] | None = None,
) -> tuple[Float[Array, ""], tuple[Metrics, Float[Array, "b z"]]]:
    """The objective whose gradient trains all networks at once, its terms (see `METRICS`), and the raw latents.

        reconstruction error (Eq. 1) + cycle_weight * cycle error + adversary's cross-entropy on the latents
            + content classifier's cross-entropy on the images (Eq. 2)

    The adversary reads the latents through a gradient reversal, which hands the style encoder -lambda times the
    adversary's gradient while the adversary itself learns at full strength. So network A descends Eq. 3 of the paper
    with the sign that its text intends: the encoder works against the adversary. The content classifier shares no
    parameters with the rest and takes the images, so no gradient of Eq. 2 reaches network A. 'total' is what Eq. 3
    states, mse + lambda * adversary.

    The cycle error is that of the reconstruction, encoded and decoded again. Without it, images drift when they are
    encoded and decoded over and over (the 'composition' of Monteiro et al. 2023). Where its weight is 0, so is it.

    Args:
      images: pixels in [0, 1].
      classifier_images: what the content classifier learns from; None: `images`.
    """
    z = apply_method(model, params, "encode_raw", images)
    decoded = apply_method(model, params, "decode_raw", z, labels)
    reconstruction = jnp.mean((decoded - images) ** 2)
    adversary, adversary_accuracy = cross_entropy(apply_method(model, params, "adversary_logits", z, lam), labels)
    seen = images if classifier_images is None else classifier_images
    content, content_accuracy = cross_entropy(apply_method(model, params, "classify", seen), labels)
    cycle = jnp.float32(0)
    if cycle_weight:
        again = apply_method(model, params, "encode_raw", jnp.clip(decoded, 0, 1))
        cycle = jnp.mean((apply_method(model, params, "decode_raw", again, labels) - images) ** 2)
    terms = {
        "total": reconstruction + lam * adversary,
        "reconstruction": reconstruction,
        "cycle": cycle,
        "adversary": adversary,
        "adversary_accuracy": adversary_accuracy,
        "content": content,
        "content_accuracy": content_accuracy,
        "lambda": lam,
    }
    return reconstruction + cycle_weight * cycle + adversary + content, (terms, z)


def _reduce_over_devices(
    axis: str, tree: Tree, z: Float[Array, "b z"], labels: Int[Array, " b"]
) -> tuple[Tree, Float[Array, "n z"], Int[Array, " n"]]:
    """Means of `tree` over all devices, and the latents and labels of all of them, by a single `sum_over`.

    A single one, because a device waits in every collective for the slowest of them, and on the CPU holds one of the
    few threads meanwhile. To gather by a sum, each device adds its rows to zeros.
    """
    devices = jax.lax.axis_size(axis)
    rows = jnp.concatenate([z, labels[:, None].astype(z.dtype)], axis=1)  # labels stay exact: < 2**24
    table = jnp.zeros((devices, *rows.shape), rows.dtype).at[jax.lax.axis_index(axis)].set(rows)
    sums, table = sum_over((tree, table), axis)
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
) -> tuple[TrainState, Metrics]:
    """The state after an Adam step of every network on `losses`, and `METRICS` from before it.

    `adversary_steps - 1` more of the adversary alone follow, on the same latents (as in Goodfellow et al. 2014,
    Algorithm 1, where the opponent also takes several steps for one of the network that works against it).

    Args:
      config: what is compiled into the step; what `Hyper` holds is not read.
      axis: the axis of a `shard_map` whose devices share the batch equally; each then has its share in `images` and
        `labels`, and returns the same. None: the whole batch is here.
    """
    progress = state.step / hyper.total_steps
    lam = scheduled_lambda(config.lambda_schedule, hyper.lambda_adv, hyper.lambda_ramp, progress)
    rate = hyper.learning_rate
    if config.learning_rate_schedule != "constant":
        rate = cosine_decay(progress) * rate
    if config.learning_rate_schedule == "warmup_cosine":
        rate = rate * jnp.minimum(1.0, (state.step + 1) / (WARMUP * hyper.total_steps))

    pixels, shifted = to_float(images), None
    if config.content_shift:
        shifted = shift_images(pixels, config.content_shift, jax.random.fold_in(jax.random.key(SHIFT_SEED), state.step))
    trained = {part: state.params[part] for parts in NETWORKS.values() for part in parts}  # all but the alignment
    gradients, (metrics, z) = jax.grad(
        lambda p: losses(model, p, pixels, labels, lam, config.cycle_weight, shifted), has_aux=True
    )(trained)
    if axis is not None:
        (gradients, metrics), z, labels = _reduce_over_devices(axis, (gradients, metrics), z, labels)
    networks, opt_state = split_networks(state.params), dict(state.opt_state)

    def update(name: str, gradient: Params) -> None:
        networks[name], opt_state[name] = descend(ADAM, gradient, networks[name], opt_state[name], rate)

    def adversary_loss(params: Params) -> Float[Array, ""]:
        return cross_entropy(apply_method(model, params, "adversary_logits", z, 0.0), labels)[0]

    for name, gradient in split_networks(gradients).items():
        update(name, gradient)
    for _ in range(config.adversary_steps - 1):
        update("adversary", jax.grad(adversary_loss)(networks["adversary"]))

    metrics = {**metrics, "learning_rate": rate, "gradient_norm": optax.tree.norm(gradients)}
    epoch_begins = state.step % hyper.steps_per_epoch == 0
    before = {name: jnp.where(epoch_begins, 0.0, value) for name, value in state.sums.items()}
    sums = {name: before[name] + metrics[name] for name in METRICS} | {"count": before["count"] + 1}
    params = state.params | {part: value for network in networks.values() for part, value in network.items()}
    return TrainState(state.step + 1, params, opt_state, sums), metrics


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
) -> tuple[TrainState, Metrics]:
    """`steps` times `train_step`, within one epoch, on batches gathered on the device; returns the last metrics.

    Args:
      images: the whole data set, on each device; `config.batch_size` must be a multiple of their number.
      order: `order.autoencoder_order` of the epoch.
    """
    devices, device = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    share = config.batch_size // devices

    def one(state: TrainState, _: Any) -> tuple[TrainState, Metrics]:
        start = state.step % hyper.steps_per_epoch * config.batch_size + device * share
        indices = jax.lax.dynamic_slice(order, (start,), (share,))
        return train_step(model, config, state, images[indices], labels[indices], hyper, axis)

    if steps == 1:
        return one(state, None)
    state, metrics = jax.lax.scan(one, state, length=steps)
    return state, jax.tree.map(lambda values: values[-1], metrics)
