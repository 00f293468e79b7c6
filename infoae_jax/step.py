"""One training step: pure functions of (state, batch, hyperparameters)."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8, UInt32

from infoae_jax import alignment, glance
from infoae_jax.collective import mean_over, sum_over
from infoae_jax.config import AlignmentConfig, RefineConfig, TrainConfig
from infoae_jax.model import InfoAutoencoder, to_unit_interval
from infoae_jax.reversal import scheduled_lambda

# Network A (both halves), network B, and the content classifier: three networks, three losses, three optimisers.
NETWORKS = {
    "autoencoder": ("style_encoder", "image_decoder"),
    "adversary": ("adversary",),
    "classifier": ("content_classifier",),
}
METRICS = (
    "total",
    "reconstruction",
    "cycle",
    "adversary",
    "adversary_accuracy",
    "content",
    "content_accuracy",
    "lambda",
    "learning_rate",
    "gradient_norm",
)
_SHIFT = 2  # pixels
_SHIFT_SEED, _AUGMENT_SEED = 2, 3
_WARMUP = 0.1  # share of the training over which the rate rises, where it does
_ADAM = optax.chain(optax.scale_by_adam())  # a chain of one, as all checkpoints have it


# The fields of these two are arrays, but JAX also builds them from shapes, shardings and the like: hence `Any`.


@flax.struct.dataclass
class Hyper:
    """What may vary between runs without compiling again: traced scalars."""

    seed: Any  # uint32
    learning_rate: Any  # float32
    lambda_adv: Any  # float32
    lambda_ramp: Any  # float32
    steps_per_epoch: Any  # int32
    total_steps: Any  # int32


@flax.struct.dataclass
class TrainState:
    step: Any  # int32: how many steps are done
    params: Any  # {module: parameters}
    # {network: Adam's moments}; 'alignment': what `alignment.init_training` gives, its helpers' parameters among it.
    opt_state: Any
    # Sums of the metrics since the epoch began: part of the state, so that a resumed epoch reports the same means.
    sums: Any  # {metric: float32}


def make_hyper(config: TrainConfig, num_images: int) -> Hyper:
    """What a run of `config` on so many images gives `train_step`."""
    steps_per_epoch = num_images // config.batch_size
    return Hyper(
        seed=jnp.uint32(config.seed),
        learning_rate=jnp.float32(config.learning_rate),
        lambda_adv=jnp.float32(config.lambda_adv),
        lambda_ramp=jnp.float32(config.lambda_ramp),
        steps_per_epoch=jnp.int32(steps_per_epoch),
        total_steps=jnp.int32(steps_per_epoch * config.epochs),
    )


def static(config: TrainConfig) -> TrainConfig:
    """`config` but for what `Hyper` holds and what no step uses: the same for all runs that can share a program."""
    traced: dict[str, Any] = {"epochs": 1, "learning_rate": 1.0, "lambda_adv": 0.0, "lambda_ramp": 1.0, "seed": 0}
    return dataclasses.replace(config, **traced, data_on="auto", steps_per_call=1)


def weights(section: AlignmentConfig | RefineConfig) -> dict[str, Float[np.ndarray, ""]]:
    """The weights and rates of a later phase, to be traced."""
    fields = dataclasses.fields(section)
    return {f.name: np.asarray(getattr(section, f.name), np.float32) for f in fields if f.type is float}


def _networks(params: Any) -> dict[str, Any]:
    return {name: {part: params[part] for part in parts} for name, parts in NETWORKS.items()}


def init_state(model: InfoAutoencoder, seed: UInt32[Array, ""] | np.uint32 | int) -> TrainState:
    """Fresh parameters and optimiser state; a pure function of `seed`."""
    images = jnp.zeros((1, *model.image_shape), jnp.uint8)
    params = model.init(jax.random.key(seed), images, jnp.zeros(1, jnp.int32))["params"]
    opt_state = {name: _ADAM.init(part) for name, part in _networks(params).items()}
    if model.couplings:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        opt_state["alignment"] = alignment.init_training(alignment_helpers(model), params["alignment"], key)
    return TrainState(jnp.int32(0), params, opt_state, zero_sums())


def alignment_helpers(model: InfoAutoencoder) -> alignment.Helpers:
    """The networks that help to train the alignment of `model`."""
    features = glance.count(model.image_shape[-1])
    return alignment.Helpers(
        model.bottleneck, model.num_classes, model.coupling_hidden, features, model.reference_couplings
    )


def zero_sums() -> dict[str, Float[Array, ""]]:
    """What an epoch begins with."""
    return {name: jnp.float32(0) for name in (*METRICS, "count")}


def _apply(model: InfoAutoencoder, params: Any, method: str, *args: Any) -> Any:
    return model.apply({"params": params}, *args, method=method)


def _cross_entropy(logits: Float[Array, "b n"], labels: Int[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(axis=1) == labels).mean()


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
    z = _apply(model, params, "embed", images)
    redrawn = _apply(model, params, "draw", z, labels)
    reconstruction = jnp.mean((redrawn - images) ** 2)
    adversary, adversary_accuracy = _cross_entropy(_apply(model, params, "guess", z, lam), labels)
    content, content_accuracy = _cross_entropy(
        _apply(model, params, "classify", images if seen is None else seen), labels
    )
    cycle = jnp.float32(0)
    if cycle_weight:
        again = _apply(model, params, "embed", jnp.clip(redrawn, 0, 1))
        cycle = jnp.mean((_apply(model, params, "draw", again, labels) - images) ** 2)
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
        direction, opt_state = _ADAM.update(gradient, opt_state, params)
        return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state

    pixels = to_unit_interval(images)
    seen = None
    if config.content_shift:
        seen = _shifted(pixels, config.content_shift, jax.random.fold_in(jax.random.key(_SHIFT_SEED), state.step))
    trained = {part: state.params[part] for parts in NETWORKS.values() for part in parts}  # all but the alignment
    gradients, (metrics, z) = jax.grad(
        lambda p: losses(model, p, pixels, labels, lam, config.cycle_weight, seen), has_aux=True
    )(trained)
    if axis is not None:
        (gradients, metrics), z, labels = _over_devices(axis, (gradients, metrics), z, labels)
    networks, opt_state = _networks(state.params), dict(state.opt_state)
    for name, gradient in _networks(gradients).items():
        networks[name], opt_state[name] = descend(gradient, networks[name], opt_state[name])

    def adversary_loss(params):
        return _cross_entropy(_apply(model, params, "guess", z, 0.0), labels)[0]

    for _ in range(config.adversary_steps - 1):
        gradient = jax.grad(adversary_loss)(networks["adversary"])
        networks["adversary"], opt_state["adversary"] = descend(gradient, networks["adversary"], opt_state["adversary"])

    metrics = {**metrics, "learning_rate": rate, "gradient_norm": optax.tree.norm(gradients)}
    epoch_begins = state.step % hyper.steps_per_epoch == 0
    kept = {name: jnp.where(epoch_begins, 0.0, value) for name, value in state.sums.items()}
    sums = {name: kept[name] + metrics[name] for name in METRICS} | {"count": kept["count"] + 1}
    params = state.params | {part: value for network in networks.values() for part, value in network.items()}
    return TrainState(state.step + 1, params, opt_state, sums), metrics


def refine_step(
    model: InfoAutoencoder,
    config: RefineConfig | SimpleNamespace,
    state: TrainState,
    images: UInt8[Array, "b h w c"],
    z: Float[Array, "b z"],
    labels: Int[Array, " b"],
    targets: Int[Array, " b"],
    progress: Float[Array, ""],
    axis: str | None = None,
    cycle: bool = True,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One Adam step of the decoder alone, on pictures and on swaps; all else is frozen, the latents stay as they are.

    Reconstruction only ever shows the decoder a latent with its own class. Here pictures and swaps are encoded again,
    and must give the style they were drawn with (as in Y-AE, Patacchiola et al. 2019); that style must give the image
    back (as in CycleGAN, Zhu et al. 2017); and swaps must give their content:

        mse + style_weight * mean((encode(picture or swap) - z)^2)
            + cycle_weight * mean((decode(encode(picture or swap), class of the image) - image)^2)
            + content_weight * cross-entropy(classify(swap))

    The classifier is easily pleased by patterns that nobody else would read. So, with `content_noise`, it sees swaps
    with normal noise of that standard deviation, and shifted by up to `_SHIFT` pixels either way.

    Args:
      config: of its weights and rate, which may be traced.
      z: what `encode` gives for `images`.
      targets: classes to swap to, of any kind.
      progress: share of this training that is done, in [0, 1).
      axis: as for `train_step`.
      cycle: False leaves out the term of `cycle_weight`, which must be 0; half of the pictures are then not drawn.

    Returns:
      The new state, and the terms above, unweighted, before the step.
    """

    def loss(decoder: Any) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        params = state.params | {"image_decoder": decoder}
        both, classes = jnp.concatenate([z, z]), jnp.concatenate([labels, targets])
        pictures = _apply(model, params, "decode", both, classes)
        redrawn, swaps = jnp.split(pictures, 2)
        pixels = to_unit_interval(images)
        again = _apply(model, params, "encode", jnp.clip(pictures, 0, 1), classes)
        seen = _augmented(jnp.clip(swaps, 0, 1), config.content_noise, state.step, axis)
        content, content_accuracy = _cross_entropy(_apply(model, params, "classify", seen), targets)
        metrics = {
            "reconstruction": jnp.mean((redrawn - pixels) ** 2),
            "style": jnp.mean((again - both) ** 2),
            "cycle": jnp.float32(0),
            "content": content,
            "content_accuracy": content_accuracy,
        }
        if cycle:
            back = _apply(model, params, "decode", again, jnp.concatenate([labels, labels]))
            error = jnp.mean((back - jnp.concatenate([pixels, pixels])) ** 2)
            # 0 where the weight is, as if it were left out: runs of both kinds may share this program.
            metrics["cycle"] = jnp.where(jnp.asarray(config.cycle_weight) > 0, error, 0.0)
        weights = {name: getattr(config, f"{name}_weight") for name in ("style", "cycle", "content")}
        return metrics["reconstruction"] + sum(weight * metrics[name] for name, weight in weights.items()), metrics

    gradient, metrics = jax.grad(loss, has_aux=True)(state.params["image_decoder"])
    if axis is not None:
        gradient, metrics = mean_over((gradient, metrics), axis)
    rate = optax.cosine_decay_schedule(1.0, 1)(progress) * config.learning_rate
    # One optimiser has both halves of the autoencoder; the encoder is given zeros, and stays.
    network = _networks(state.params)["autoencoder"]
    gradients = jax.tree.map(jnp.zeros_like, network) | {"image_decoder": gradient}
    direction, moments = _ADAM.update(gradients, state.opt_state["autoencoder"], network)
    decoder = jax.tree.map(lambda p, d: p - rate * d, network["image_decoder"], direction["image_decoder"])
    params = state.params | {"image_decoder": decoder}
    return TrainState(state.step + 1, params, state.opt_state | {"autoencoder": moments}, state.sums), metrics


def _augmented(
    pictures: Float[Array, "b h w c"], noise: Float[Array, ""] | float, step: Int[Array, ""], axis: str | None
) -> Float[Array, "b h w c"]:
    """Pictures with normal noise, not clipped, all shifted alike (cyclically); as they are where `noise` is 0.

    A function of the step, the same for every seed of the training.
    """
    devices, device = (1, 0) if axis is None else (jax.lax.axis_size(axis), jax.lax.axis_index(axis))
    noise_key, shift_key = jax.random.split(jax.random.fold_in(jax.random.key(_AUGMENT_SEED), step))
    # Drawn for all devices, so that it does not depend on how many there are.
    drawn = jax.random.normal(noise_key, (devices * len(pictures), *pictures.shape[1:]), pictures.dtype)
    own = jax.lax.dynamic_slice_in_dim(drawn, device * len(pictures), len(pictures))
    return _shifted(pictures, _SHIFT * (jnp.asarray(noise) > 0), shift_key) + noise * own


def _shifted(pictures: Float[Array, "b h w c"], most: Int[Array, ""] | int, key: Any) -> Float[Array, "b h w c"]:
    """Pictures, all shifted alike (cyclically), by up to `most` pixels either way."""
    rows, columns = jax.random.randint(key, (2,), -most, most + 1)
    return jnp.roll(pictures, (rows, columns), (1, 2))


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


def evaluation_sums(
    model: InfoAutoencoder,
    params: Any,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    mask: Float[Array, " b"],
) -> dict[str, Float[Array, ""]]:
    """Sums over the images with mask 1, to be divided once at the end: each example counts once at any batch size."""
    pixels = to_unit_interval(images)
    z = _apply(model, params, "encode", images)
    squared = jnp.mean((_apply(model, params, "decode", z, labels) - pixels) ** 2, axis=(1, 2, 3))
    content = _apply(model, params, "classify", images).argmax(axis=1) == labels
    adversary = _apply(model, params, "guess", _apply(model, params, "embed", images), 0.0).argmax(axis=1) == labels
    return {
        "reconstruction": jnp.sum(squared * mask),
        "content_accuracy": jnp.sum(content * mask),
        "adversary_accuracy": jnp.sum(adversary * mask),
        "count": jnp.sum(mask),
    }
