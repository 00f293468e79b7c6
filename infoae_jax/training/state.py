"""The state of a training, and the scalars that its programs take as traced arguments."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from infoae_jax.config import AlignmentConfig, RefineConfig, TrainConfig
from infoae_jax.models.alignment import AlignmentHelpers
from infoae_jax.models.autoencoder import InfoAutoencoder, init_params
from infoae_jax.training.alignment import init_alignment
from infoae_jax.training.appearance import num_features
from infoae_jax.training.optimizer import ADAM, Weights
from infoae_jax.types import OptState, Params, Tree

# Network A (both halves), network B, and the content classifier: three networks, three losses, three optimisers.
NETWORKS = {
    "autoencoder": ("style_encoder", "image_decoder"),
    "adversary": ("adversary",),
    "classifier": ("content_classifier",),
}
METRICS = (
    *("total", "reconstruction", "cycle", "adversary", "adversary_accuracy", "content", "content_accuracy"),
    *("lambda", "learning_rate", "gradient_norm"),
)


@flax.struct.dataclass
class Hyper:
    """What may differ between runs that share a compiled program of the autoencoder's phase: traced scalars."""

    seed: Tree  # uint32
    learning_rate: Tree  # float32
    lambda_adv: Tree  # float32
    lambda_ramp: Tree  # float32
    steps_per_epoch: Tree  # int32
    total_steps: Tree  # int32


@flax.struct.dataclass
class TrainState:
    """All that a resumed training starts from."""

    step: Tree  # int32: number of steps done, over all phases
    params: Params
    opt_state: dict[str, OptState]  # Adam's moments by network; 'alignment': what `init_alignment` returns
    sums: Tree  # {metric: float32} since the epoch began, so that a resumed one reports the same means


def make_hyper(config: TrainConfig, num_images: int) -> Hyper:
    """The traced scalars of a run of `config` on `num_images` images."""
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
    """`config` without what `Hyper` holds and no step reads: the same for all runs that can share a program."""
    traced: dict[str, Any] = {"epochs": 1, "learning_rate": 1.0, "lambda_adv": 0.0, "lambda_ramp": 1.0, "seed": 0}
    return dataclasses.replace(config, **traced, data_on="auto", steps_per_call=1)


def traced_weights(section: AlignmentConfig | RefineConfig) -> Weights:
    """The weights and the learning rate of a later phase: traced scalars."""
    fields = dataclasses.fields(section)
    return {f.name: np.asarray(getattr(section, f.name), np.float32) for f in fields if f.type is float}


def split_networks(params: Params) -> dict[str, Params]:
    """Parameters, or gradients, by optimiser of the autoencoder's phase, without those of the alignment."""
    return {name: {part: params[part] for part in parts} for name, parts in NETWORKS.items()}


def init_state(model: InfoAutoencoder, seed: UInt32[Array, ""] | np.uint32 | int) -> TrainState:
    """Fresh parameters and optimiser state; a pure function of `seed`."""
    params = init_params(model, seed)
    opt_state: dict[str, OptState] = {name: ADAM.init(part) for name, part in split_networks(params).items()}
    if model.couplings:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        opt_state["alignment"] = init_alignment(alignment_helpers(model), params["alignment"], key)
    return TrainState(jnp.int32(0), params, opt_state, {name: jnp.float32(0) for name in (*METRICS, "count")})


def alignment_helpers(model: InfoAutoencoder) -> AlignmentHelpers:
    """The networks that help to train the alignment of `model`."""
    features = num_features(model.image_shape[-1])
    return AlignmentHelpers(
        model.bottleneck, model.num_classes, model.coupling_hidden, features, model.reference_couplings
    )


def apply_method(model: InfoAutoencoder, params: Params, method: str, *args: Any) -> Any:
    """What `method` of the model returns for these parameters."""
    return model.apply({"params": params}, *args, method=method)
