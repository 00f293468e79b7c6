"""State of a training, and what its programs take as traced scalars."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt32

from infoae_jax.config import AlignmentConfig, RefineConfig, TrainConfig
from infoae_jax.models.alignment import AlignmentHelpers
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.alignment import init_training
from infoae_jax.training.appearance import num_features

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
ADAM = optax.chain(optax.scale_by_adam())  # a chain of one, as all checkpoints have it


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


def static_config(config: TrainConfig) -> TrainConfig:
    """`config` but for what `Hyper` holds and what no step uses: the same for all runs that can share a program."""
    traced: dict[str, Any] = {"epochs": 1, "learning_rate": 1.0, "lambda_adv": 0.0, "lambda_ramp": 1.0, "seed": 0}
    return dataclasses.replace(config, **traced, data_on="auto", steps_per_call=1)


def traced_weights(section: AlignmentConfig | RefineConfig) -> dict[str, Float[np.ndarray, ""]]:
    """The weights and rates of a later phase, to be traced."""
    fields = dataclasses.fields(section)
    return {f.name: np.asarray(getattr(section, f.name), np.float32) for f in fields if f.type is float}


def split_networks(params: Any) -> dict[str, Any]:
    return {name: {part: params[part] for part in parts} for name, parts in NETWORKS.items()}


def init_state(model: InfoAutoencoder, seed: UInt32[Array, ""] | np.uint32 | int) -> TrainState:
    """Fresh parameters and optimiser state; a pure function of `seed`."""
    images = jnp.zeros((1, *model.image_shape), jnp.uint8)
    params = model.init(jax.random.key(seed), images, jnp.zeros(1, jnp.int32))["params"]
    opt_state = {name: ADAM.init(part) for name, part in split_networks(params).items()}
    if model.couplings:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        opt_state["alignment"] = init_training(alignment_helpers(model), params["alignment"], key)
    return TrainState(jnp.int32(0), params, opt_state, zero_sums())


def alignment_helpers(model: InfoAutoencoder) -> AlignmentHelpers:
    """The networks that help to train the alignment of `model`."""
    features = num_features(model.image_shape[-1])
    return AlignmentHelpers(
        model.bottleneck, model.num_classes, model.coupling_hidden, features, model.reference_couplings
    )


def zero_sums() -> dict[str, Float[Array, ""]]:
    """What an epoch begins with."""
    return {name: jnp.float32(0) for name in (*METRICS, "count")}


def apply_method(model: InfoAutoencoder, params: Any, method: str, *args: Any) -> Any:
    return model.apply({"params": params}, *args, method=method)


def cross_entropy(logits: Float[Array, "b n"], labels: Int[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(axis=1) == labels).mean()
