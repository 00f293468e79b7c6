"""Refinement of the decoder on swaps: loss and one step."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from infoae_jax.config import RefineConfig
from infoae_jax.devices.collective import mean_over
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.augment import augment_swaps
from infoae_jax.training.state import ADAM, TrainState, apply_method, cross_entropy, split_networks


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
        pictures = apply_method(model, params, "decode", both, classes)
        redrawn, swaps = jnp.split(pictures, 2)
        pixels = to_float(images)
        again = apply_method(model, params, "encode", jnp.clip(pictures, 0, 1), classes)
        seen = augment_swaps(jnp.clip(swaps, 0, 1), config.content_noise, state.step, axis)
        content, content_accuracy = cross_entropy(apply_method(model, params, "classify", seen), targets)
        metrics = {
            "reconstruction": jnp.mean((redrawn - pixels) ** 2),
            "style": jnp.mean((again - both) ** 2),
            "cycle": jnp.float32(0),
            "content": content,
            "content_accuracy": content_accuracy,
        }
        if cycle:
            back = apply_method(model, params, "decode", again, jnp.concatenate([labels, labels]))
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
    network = split_networks(state.params)["autoencoder"]
    gradients = jax.tree.map(jnp.zeros_like, network) | {"image_decoder": gradient}
    direction, moments = ADAM.update(gradients, state.opt_state["autoencoder"], network)
    decoder = jax.tree.map(lambda p, d: p - rate * d, network["image_decoder"], direction["image_decoder"])
    params = state.params | {"image_decoder": decoder}
    return TrainState(state.step + 1, params, state.opt_state | {"autoencoder": moments}, state.sums), metrics
