"""Training of the autoencoder with its adversary and content classifier: lambda, the losses, one step."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.config import Static
from infoae_jax.devices.batching import model_method
from infoae_jax.devices.collective import sum_over
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.augment import augment_swaps, mix_in_views, shift_each
from infoae_jax.training.optimizer import chroma_error, cross_entropy, scheduled_rate, update
from infoae_jax.training.phase import Phase
from infoae_jax.training.run import Run
from infoae_jax.training.state import TrainState
from infoae_jax.training.stream import swap_classes
from infoae_jax.types import AnyArray, Batch, Hyper, Metrics, OptState, Params, Scalar, Tree, Variables

SWAP_RAMP = 0.2, 0.5  # shares of the phase between which the weight of the swaps rises
METRICS = (
    *("total", "reconstruction", "chroma", "cycle", "adversary", "adversary_accuracy", "content", "content_accuracy"),
    *("swap", "swap_accuracy", "lambda", "learning_rate"),
)


def scheduled_lambda(schedule: str, lam: Scalar, ramp: Scalar, progress: Scalar) -> Float[Array, ""]:
    """Lambda at a point of the training, `progress` in [0, 1]; it acts in `models.reversal.reverse_gradient`.

    Args:
      schedule: 'constant' (always `lam`), or 'linear' (0 to `lam` over the first `ramp`, in (0, 1], of the training).
    """
    share = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0)
    return jnp.asarray(lam) * (jnp.ones_like(share) if schedule == "constant" else share)


def losses(
    model: InfoAutoencoder,
    config: Static,
    variables: Variables,
    batch: Batch,
    hyper: Hyper,
    axis: str | None = None,
) -> tuple[Float[Array, ""], tuple[Metrics, Float[Array, "b z"]]]:
    """The objective whose gradient trains all networks at once, its terms (see `METRICS`), and the raw latents.

        reconstruction error (Eq. 1) + chroma_weight * `chroma_error` + cycle_weight * cycle error
            + adversary's cross-entropy on the latents
            + content classifier's cross-entropy on the images (Eq. 2) + swap_weight * the same on swaps

    The adversary reads the latents through a gradient reversal, which hands the style encoder -lambda times the
    adversary's gradient while the adversary itself learns at full strength. So network A descends Eq. 3 of the paper
    with the sign that its text intends: the encoder works against the adversary. The content classifier shares no
    parameters with the rest and takes the images, so no gradient of Eq. 2 reaches network A. 'total' is what Eq. 3
    states, mse + lambda * adversary.

    The cycle error is that of the reconstruction, encoded and decoded again, from the midpoint of the image and the
    reconstruction. Without it, images drift when they are encoded and decoded over and over (the 'composition' of
    Monteiro et al. 2023); measured from the image alone, they drift a little more at the same reconstruction error.

    A reconstruction shows the decoder no latent with another class than its own, so it may read the class from the
    latent. Swaps, decoded with random classes, must show those to the classifier, which does not learn from them (as in
    AttGAN, He et al. 2019). It is easily pleased by patterns in which nobody else would see the class, so it gets swaps
    with noise (`augment_swaps`). Their weight rises along `SWAP_RAMP`, by when the classifier reads most images.

    Args:
      config: 'chroma_weight', 'cycle_weight' and 'swap_weight', at least 0; 0 leaves out the term, which is then 0.
      batch: 'images' and 'classifier_images' [b, h, w, c], pixels in [0, 1] that network A and the content classifier
        learn from, and 'labels' [b].
      hyper: as for `train_step`, with the 'lambda' of this step.
    """
    images, labels, lam = batch["images"], jnp.asarray(batch["labels"]), hyper["lambda"]
    z = _call(model, variables, "encode_raw", images)
    decoded = _call(model, variables, "decode_raw", z, labels)
    reconstruction = jnp.mean((decoded - images) ** 2)
    adversary, adversary_accuracy = cross_entropy(_call(model, variables, "adversary_logits", z, lam), labels)
    logits = _call(model, variables, "classify", batch["classifier_images"])
    content, content_accuracy = cross_entropy(logits, labels)
    chroma = cycle = swap = swap_accuracy = jnp.float32(0)
    if config.chroma_weight:
        chroma = chroma_error(decoded, jnp.asarray(images))
    if config.cycle_weight:
        again = _call(model, variables, "encode_raw", jnp.clip(decoded, 0, 1))
        midpoint = jax.lax.stop_gradient(images + decoded) / 2
        cycle = jnp.mean((_call(model, variables, "decode_raw", again, labels) - midpoint) ** 2)
    if config.swap_weight:
        targets = swap_classes(hyper, model.num_classes, len(z), axis)
        swaps = augment_swaps(jnp.clip(_call(model, variables, "decode_raw", z, targets), 0, 1), hyper, axis)
        classifier = {"content_classifier": jax.lax.stop_gradient(variables["params"]["content_classifier"])}
        logits = _call(model, {**variables, "params": variables["params"] | classifier}, "classify", swaps)
        swap, swap_accuracy = cross_entropy(logits, targets)
    start, end = SWAP_RAMP
    swap_weight = config.swap_weight * jnp.clip((hyper["progress"] - start) / (end - start), 0, 1)
    terms = {
        "total": reconstruction + lam * adversary,
        "reconstruction": reconstruction,
        "chroma": chroma,
        "cycle": cycle,
        "adversary": adversary,
        "adversary_accuracy": adversary_accuracy,
        "content": content,
        "content_accuracy": content_accuracy,
        "swap": swap,
        "swap_accuracy": swap_accuracy,
        "lambda": lam,
    }
    error = reconstruction + config.chroma_weight * chroma + config.cycle_weight * cycle
    return error + adversary + content + swap_weight * swap, (terms, z)


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
    config: Static,
    params: Params,
    frozen: Variables,
    optimizer: OptState,
    batch: Batch,
    hyper: Hyper,
    axis: str | None = None,
) -> tuple[Params, OptState, Metrics]:
    """Parameters and optimiser states after an Adam step of every network on `losses`, and `METRICS` from before it.

    `adversary_steps - 1` more of the adversary alone follow, on the same latents (as in Goodfellow et al. 2014,
    Algorithm 1, where the opponent also takes several steps for one of the network that works against it).

    Args:
      config: the settings of the section 'train' that are compiled into the step.
      params: those of `AUTOENCODER.trains`.
      frozen: the 'constants' of the model.
      optimizer: what `init_optimizer` returns.
      batch: 'images' [b, h, w, c], 0 .. 255, and 'labels' [b].
      hyper: the traced settings; and of all phases: 'seed', 'step' (number of steps done), 'total_steps' of this phase,
        and 'progress', the share of it that is done, in [0, 1).
      axis: the axis of a `shard_map` whose devices share the batch equally; each then has its share in `batch`, and
        returns the same. None: the whole batch is here.
    """
    lam = scheduled_lambda(config.lambda_schedule, hyper["lambda_adv"], hyper["lambda_ramp"], hyper["progress"])
    hyper = {**hyper, "lambda": lam}
    rate = scheduled_rate(config.learning_rate_schedule, hyper)
    images, labels = jnp.asarray(to_float(batch["images"])), jnp.asarray(batch["labels"])
    seen = images
    if config.view_share:
        seen = mix_in_views(seen, config.view_share, hyper, axis)
    if config.shift:
        seen = shift_each(seen, config.shift, hyper, axis)
    own = {"images": seen if config.augment == "all" else images, "classifier_images": seen, "labels": labels}
    gradients, (metrics, z) = jax.grad(
        lambda p: losses(model, config, {**frozen, "params": p}, own, hyper, axis), has_aux=True
    )(params)
    if axis is not None:
        (gradients, metrics), z, labels = _reduce_over_devices(axis, (gradients, metrics), z, labels)
    # 1. All but the adversary.
    others, adversary = _split(params)
    gradient, slope = _split(gradients)
    others, moments = update(optax.adam(rate), gradient, optimizer["networks"], others)
    # 2. The adversary.
    adversary, adversary_moments = update(optax.adam(rate), slope, optimizer["adversary"], adversary)

    def adversary_loss(params: Params) -> Float[Array, ""]:
        return cross_entropy(_call(model, {**frozen, "params": params}, "adversary_logits", z, 0.0), labels)[0]

    for _ in range(config.adversary_steps - 1):
        slope = jax.grad(adversary_loss)(adversary)
        adversary, adversary_moments = update(optax.adam(rate), slope, adversary_moments, adversary)
    optimizer = {"networks": moments, "adversary": adversary_moments}
    return others | adversary, optimizer, {**metrics, "learning_rate": rate}


def init_optimizer(params: Params) -> OptState:
    """The optimiser states of `train_step`: one for the adversary, and one for the other networks."""
    others, adversary = _split(params)
    return {"networks": optax.adam(0.0).init(others), "adversary": optax.adam(0.0).init(adversary)}


def _split(params: Params) -> tuple[Params, Params]:
    others = {name: value for name, value in params.items() if name != "adversary"}
    return others, {"adversary": params["adversary"]}


def _call(model: InfoAutoencoder, variables: Variables, method: str, *args: AnyArray | float) -> Array:
    return model_method(model, method)(variables, *args)


def _begin(run: Run, state: TrainState, fresh: bool) -> tuple[TrainState, Batch]:
    return state, {"images": run.splits.train.images, "labels": run.splits.train.labels}


AUTOENCODER = Phase(
    name="autoencoder",
    section=lambda config: config.train,
    epochs=lambda config: config.train.epochs,
    trains=("style_encoder", "image_decoder", "adversary", "content_classifier"),
    reads=(),
    metrics=METRICS,
    shown=("reconstruction", "adversary", "adversary_accuracy", "content_accuracy", "swap_accuracy", "lambda"),
    init_optimizer=init_optimizer,
    begin=_begin,
    step=train_step,
)
