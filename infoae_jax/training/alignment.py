"""Training of the alignment on frozen latents: class maps, losses, one step."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.config import AlignmentConfig
from infoae_jax.devices.collective import mean_over
from infoae_jax.models.alignment import Alignment, AlignmentHelpers, Codes

_RAMP = 0.3  # share of the training over which lambda rises
_CLIP = 1.0  # norm of the gradient, as a rare latent far out has a large one
_READERS_RATE = 0.5  # of the learning rate of the map
_LEAST = 1e-6  # of a variance, relative to the mean variance
_PROCRUSTES_STEPS = 100
_STILL = 1e-9  # weight of the identity, against the norm of what the looks say of a turn


def class_maps(
    z: Float[np.ndarray, "n z"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    looks: Float[np.ndarray, "n f"],
) -> dict[str, Float[np.ndarray, "..."]]:
    """The affine map of each class, after which all have mean 0 and covariance 1, as parameters of `Alignment`.

    `mean` [k, z], `matrix` and `inverse_matrix` [k, z, z].

    A class with few images (against the latent's size) has its covariance drawn towards that of all (as Friedman 1989).
    Directions of which the looks say nothing are not turned.

    Args:
      looks: `appearance.appearance_features` of the images.
    """
    z = z.astype(np.float64)
    size, grand = z.shape[1], z.mean(0)
    members = [labels == c for c in range(num_classes)]
    means = np.stack([z[m].mean(0) if m.any() else grand for m in members])
    centred = [z[m] - mean for m, mean in zip(members, means, strict=True)]
    pooled = sum(c.T @ c for c in centred) / len(z)
    pooled += _LEAST * np.trace(pooled) / size * np.eye(size)
    whiten = _power(pooled, -0.5)  # of all classes; what is then left to do is small, so classes are not turned apart
    maps, responses = [], []
    for m, c in zip(members, centred, strict=True):
        own = _power(whiten @ (c.T @ c + size * pooled) @ whiten / (len(c) + size), -0.5) @ whiten
        maps.append(own)
        responses.append(own @ c.T @ looks[m] / (len(c) + size))
    response, turns = np.stack(responses), np.broadcast_to(np.eye(size), (num_classes, size, size))
    for _ in range(_PROCRUSTES_STEPS):
        wanted = (turns @ response).mean(0) @ response.mT
        still = _STILL * np.linalg.norm(wanted, axis=(1, 2), keepdims=True) * np.eye(size)
        left, _, right = np.linalg.svd(wanted + still)
        turns = left @ right
    matrix = turns @ np.stack(maps)
    found = {"mean": means, "matrix": matrix, "inverse_matrix": np.linalg.inv(matrix)}
    return {name: value.astype(np.float32) for name, value in found.items()}


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Of a symmetric positive matrix."""
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, 1e-12) ** exponent) @ vector.T


def init_training(helpers: AlignmentHelpers, alignment: Any, key: Any) -> dict[str, Any]:
    """The state of the training beside the parameters `alignment`."""
    z, content = jnp.zeros((1, helpers.size)), jnp.zeros((1, helpers.num_classes))
    params = helpers.init(key, z, content, method="init_all")["params"]
    groups = _groups(alignment, params)
    return {"params": params} | {name: _optimizer(name).init(group) for name, group in groups.items()}


def _groups(alignment: Any, helpers: Any) -> dict[str, Any]:
    """Parameters that are trained together: the map with its density model, and those that read from its codes."""
    readers = {name: helpers[name] for name in ("adversary", "look")}
    reference = {name: value for name, value in helpers.items() if name not in readers}
    return {"map": {"alignment": alignment, **reference}, "readers": readers}


def _optimizer(group: str) -> optax.GradientTransformation:
    return optax.chain(*([optax.clip_by_global_norm(_CLIP)] if group == "map" else []), optax.scale_by_adam())


def align_step(
    alignment: Alignment,
    helpers: AlignmentHelpers,
    config: AlignmentConfig | SimpleNamespace,
    state: tuple[Any, dict[str, Any]],
    z: Codes,
    labels: Int[Array, " b"],
    looks: Float[Array, "b f"],
    targets: Int[Array, " b"],
    progress: Float[Array, ""],
    axis: str | None = None,
) -> tuple[tuple[Any, dict[str, Any]], dict[str, Float[Array, ""]]]:
    """One Adam step of the alignment with its density model, and of the networks that read from its codes.

    Args:
      config: of its weights and rate, which may be traced.
      state: parameters of the alignment, and what `init_training` gives.
      looks: `appearance.appearance_features` of the images.
      targets: classes to swap to, of any kind; every second one is used.
      progress: share of this training that is done, in [0, 1).
      axis: as for `autoencoder.train_step`.

    Returns:
      The new state, and the losses before the step: 'log_likelihood' of the latents (per dimension, up to a constant),
      'style' (squared error of the look of swaps), 'look' (of the reader's own look), the adversary's.
    """
    params, others = state
    content = jax.nn.one_hot(labels, alignment.num_classes)
    some = slice(None, None, 2)  # the same rows on any number of devices whose shares are even
    swapped = jax.nn.one_hot(targets[some], alignment.num_classes)
    lam = config.lambda_adv * jnp.minimum(progress / _RAMP, 1)

    def loss(params: Any, helper_params: Any) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        u, log_det = alignment.apply({"params": params}, z, content)
        start = alignment.apply({"params": params}, z, content, method="affine")
        log_p, logits = helpers.apply({"params": helper_params}, u, lam)
        log_likelihood = (log_p + log_det).mean() / alignment.size
        logits = jnp.asarray(logits)
        adversary = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        read = helpers.apply({"params": helper_params}, start, content, method="appearance")
        look = ((jnp.asarray(read) - looks) ** 2).mean()
        # The reader must not learn to be pleased by swaps.
        fixed = {"params": jax.lax.stop_gradient(helper_params)}
        swap = alignment.apply({"params": params}, u[some], swapped, method="inverse_couplings")
        style = ((jnp.asarray(helpers.apply(fixed, swap, swapped, method="appearance")) - looks[some]) ** 2).mean()
        metrics = {
            "log_likelihood": log_likelihood,
            "style": style,
            "look": look,
            "adversary": adversary,
            "adversary_accuracy": (logits.argmax(1) == labels).mean(),
        }
        return config.style_weight * style - log_likelihood + adversary + look, metrics

    gradients, metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, others["params"])
    if axis is not None:
        gradients, metrics = mean_over((gradients, metrics), axis)
    rate = optax.cosine_decay_schedule(1.0, 1)(progress) * config.learning_rate
    rates = {"map": rate, "readers": _READERS_RATE * rate}
    groups, slopes = _groups(params, others["params"]), _groups(*gradients)
    moved, moments = {}, {}
    for name, group in groups.items():
        direction, moments[name] = _optimizer(name).update(slopes[name], others[name])
        moved[name] = jax.tree.map(lambda p, d, speed=rates[name]: p - speed * d, group, direction)
    aligned = moved["map"].pop("alignment")
    return (aligned, {"params": moved["map"] | moved["readers"], **moments}), metrics
