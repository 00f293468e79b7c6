"""Refinement of the decoder on swaps (images decoded with another class): the loss and one step."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from infoae_jax.config import Static
from infoae_jax.devices.batching import model_method
from infoae_jax.devices.collective import mean_over
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.augment import augment_swaps
from infoae_jax.training.optimizer import chroma_error, cross_entropy, scheduled_rate, update
from infoae_jax.training.phase import Phase
from infoae_jax.training.run import Run
from infoae_jax.training.state import TrainState
from infoae_jax.training.stream import swap_classes
from infoae_jax.types import Batch, Hyper, Metrics, OptState, Params, Scalar, Variables

MAX_GRADIENT_NORM = 3.0  # most are below 1, but where a swap, encoded again, lands far out it can be huge
METRICS = "reconstruction", "chroma", "style", "cycle", "swap", "swap_accuracy"


def make_optimizer(rate: Scalar) -> optax.GradientTransformation:
    """Adam behind a bound on the gradient, as one huge gradient would undo what the decoder has learned."""
    return optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.adam(rate))


def init_optimizer(params: Params) -> OptState:
    """The optimiser state of `refine_step`."""
    return make_optimizer(0.0).init(params)


def refine_step(
    model: InfoAutoencoder,
    config: Static,
    params: Params,
    frozen: Variables,
    optimizer: OptState,
    batch: Batch,
    hyper: Hyper,
    axis: str | None = None,
) -> tuple[Params, OptState, Metrics]:
    """The decoder after an Adam step on reconstructions and swaps, and its optimiser state; all else is frozen.

    A reconstruction only ever shows the decoder a latent with its own class. Here reconstructions and swaps are encoded
    again, and must give the latent they were decoded from (as in Y-AE, Patacchiola et al. 2019); that latent must give
    the image back (as in CycleGAN, Zhu et al. 2017); and swaps must show their class. With x the image, z its latent, y
    its class, t the target class, and c both y and t:

        mean((decode(z, y) - x)^2) + chroma_weight * chroma_error(decode(z, y), x)
            + style_weight * mean((encode(decode(z, c), c) - z)^2)
            + cycle_weight * mean((decode(encode(decode(z, c), c), y) - x)^2)
            + swap_weight * cross-entropy(classify(decode(z, t)), t)

    The classifier gets swaps with noise, as in `autoencoder.losses`.

    Args:
      config: 'chroma_weight' and 'cycle_weight', at least 0; 0 leaves out the term.
      params: those of `REFINEMENT.trains`.
      frozen: the parameters of `REFINEMENT.reads`, and the 'constants' of the model.
      optimizer: what `init_optimizer` returns.
      batch: 'images' [b, h, w, c], 0 .. 255, what `encode` returns for them as 'z' [b, d], and 'labels' [b].
      hyper: 'learning_rate', 'style_weight', 'swap_weight', at least 0, and those of `autoencoder.train_step`.
      axis: as for `autoencoder.train_step`.

    Returns:
      Parameters, optimiser state, and the unweighted terms before the step: 'reconstruction', 'chroma', 'style',
      'cycle', 'swap', and 'swap_accuracy'. 'chroma' and 'cycle' are 0 where their weights are.
    """
    z, labels, pixels = jnp.asarray(batch["z"]), jnp.asarray(batch["labels"]), jnp.asarray(to_float(batch["images"]))
    targets = swap_classes(hyper, model.num_classes, len(z), axis)
    both, classes = jnp.concatenate([z, z]), jnp.concatenate([labels, targets])

    def loss(params: Params) -> tuple[Float[Array, ""], Metrics]:
        variables = {**frozen, "params": frozen["params"] | params}
        encode, decode, classify = (model_method(model, name) for name in ("encode", "decode", "classify"))
        decoded = decode(variables, both, classes)
        reconstructions, swaps = jnp.split(decoded, 2)
        again = encode(variables, jnp.clip(decoded, 0, 1), classes)
        seen = augment_swaps(jnp.clip(swaps, 0, 1), hyper, axis)
        swap, swap_accuracy = cross_entropy(classify(variables, seen), targets)
        chroma = cycle = jnp.float32(0)
        if config.chroma_weight:
            chroma = chroma_error(reconstructions, pixels)
        if config.cycle_weight:
            back = decode(variables, again, jnp.concatenate([labels, labels]))
            cycle = jnp.mean((back - jnp.concatenate([pixels, pixels])) ** 2)
        reconstruction, style = jnp.mean((reconstructions - pixels) ** 2), jnp.mean((again - both) ** 2)
        error = reconstruction + config.chroma_weight * chroma + config.cycle_weight * cycle
        values = reconstruction, chroma, style, cycle, swap, swap_accuracy
        total = error + hyper["style_weight"] * style + hyper["swap_weight"] * swap
        return total, dict(zip(METRICS, values, strict=True))

    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    if axis is not None:
        gradient, metrics = mean_over((gradient, metrics), axis)
    adam = make_optimizer(scheduled_rate("cosine", hyper))
    return *update(adam, gradient, optimizer, params), metrics


def _begin(run: Run, state: TrainState, fresh: bool) -> tuple[TrainState, Batch]:
    train = run.splits.train
    return state, {"images": train.images, "z": run.latents(state, "encode"), "labels": train.labels}


REFINEMENT = Phase(
    name="refinement",
    section=lambda config: config.refine,
    epochs=lambda config: config.refine.epochs,
    trains=("image_decoder",),
    reads=("style_encoder", "content_classifier", "alignment"),
    metrics=METRICS,
    shown=METRICS,
    init_optimizer=init_optimizer,
    begin=_begin,
    step=refine_step,
)
