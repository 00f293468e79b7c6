"""Refinement of the decoder on swaps (images decoded with another class): the loss and one step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from infoae_jax.devices.collective import mean_over
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.augment import augment_swaps
from infoae_jax.training.optimizer import ADAM, Weights, cosine_decay, cross_entropy, descend
from infoae_jax.training.state import TrainState, apply_method, split_networks
from infoae_jax.types import Metrics, Params


def refine_step(
    model: InfoAutoencoder,
    state: TrainState,
    images: UInt8[Array, "b h w c"],
    z: Float[Array, "b z"],
    labels: Int[Array, " b"],
    targets: Int[Array, " b"],
    progress: Float[Array, ""],
    weights: Weights,
    axis: str | None = None,
    has_cycle: bool = True,
) -> tuple[TrainState, Metrics]:
    """The state after an Adam step of the decoder alone, on reconstructions and swaps; all else is frozen.

    A reconstruction only ever shows the decoder a latent with its own class. Here reconstructions and swaps are encoded
    again, and must give the latent they were decoded from (as in Y-AE, Patacchiola et al. 2019); that latent must give
    the image back (as in CycleGAN, Zhu et al. 2017); and swaps must show their class. With x the image, z its latent, y
    its class, t the target class, and c both y and t:

        mean((decode(z, y) - x)^2) + style_weight * mean((encode(decode(z, c), c) - z)^2)
            + cycle_weight * mean((decode(encode(decode(z, c), c), y) - x)^2)
            + content_weight * cross-entropy(classify(decode(z, t)), t)

    The classifier is easily pleased by patterns in which nobody else would see the class. So it gets swaps with noise
    and shifted a little (`augment.augment_swaps`), where `content_noise` is above 0.

    Args:
      z: what `encode` returns for `images`.
      targets: classes to swap to, 0 .. classes - 1.
      progress: share of the phase that is done, in [0, 1).
      weights: 'learning_rate', 'style_weight', 'cycle_weight', 'content_weight', 'content_noise', at least 0.
      axis: as for `autoencoder.train_step`.
      has_cycle: False leaves out the term of `cycle_weight`, which must then be 0, and half of the decoding with it.

    Returns:
      The new state, and the unweighted terms before the step: 'reconstruction', 'style', 'cycle' (0 where its weight
      is), 'content', and 'content_accuracy'.
    """

    def loss(decoder: Params) -> tuple[Float[Array, ""], Metrics]:
        params = state.params | {"image_decoder": decoder}
        both, classes = jnp.concatenate([z, z]), jnp.concatenate([labels, targets])
        decoded = apply_method(model, params, "decode", both, classes)
        reconstructions, swaps = jnp.split(decoded, 2)
        pixels = to_float(images)
        again = apply_method(model, params, "encode", jnp.clip(decoded, 0, 1), classes)
        noise = jnp.asarray(weights["content_noise"])
        seen = augment_swaps(jnp.clip(swaps, 0, 1), noise, state.step, axis)
        content, content_accuracy = cross_entropy(apply_method(model, params, "classify", seen), targets)
        metrics = {
            "reconstruction": jnp.mean((reconstructions - pixels) ** 2),
            "style": jnp.mean((again - both) ** 2),
            "cycle": jnp.float32(0),
            "content": content,
            "content_accuracy": content_accuracy,
        }
        if has_cycle:
            back = apply_method(model, params, "decode", again, jnp.concatenate([labels, labels]))
            error = jnp.mean((back - jnp.concatenate([pixels, pixels])) ** 2)
            # Runs with and without the term may share this program, so its weight can be 0 here.
            metrics["cycle"] = jnp.where(jnp.asarray(weights["cycle_weight"]) > 0, error, 0.0)
        weighted = sum(weights[f"{name}_weight"] * metrics[name] for name in ("style", "cycle", "content"))
        return metrics["reconstruction"] + weighted, metrics

    gradient, metrics = jax.grad(loss, has_aux=True)(state.params["image_decoder"])
    if axis is not None:
        gradient, metrics = mean_over((gradient, metrics), axis)
    # One optimiser has both halves of the autoencoder: the encoder is given a gradient of 0, and stays.
    network = split_networks(state.params)["autoencoder"]
    gradients = jax.tree.map(jnp.zeros_like, network) | {"image_decoder": gradient}
    rate = cosine_decay(progress) * weights["learning_rate"]
    refined, moments = descend(ADAM, gradients, network, state.opt_state["autoencoder"], rate)
    params = state.params | {"image_decoder": refined["image_decoder"]}
    return TrainState(state.step + 1, params, state.opt_state | {"autoencoder": moments}, state.sums), metrics
