"""Training of the alignment on frozen latents: the affine map of each class, the loss, one step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from infoae_jax.devices.collective import mean_over
from infoae_jax.models.alignment import Alignment, AlignmentHelpers, Codes
from infoae_jax.training.optimizer import ADAM, Weights, cosine_decay, cross_entropy, descend
from infoae_jax.types import Metrics, Params, Tree

LAMBDA_RAMP = 0.3  # share of the phase over which lambda rises
READER_RATE_FACTOR = 0.5  # of the learning rate of the map
MAX_GRADIENT_NORM = 1.0  # of the map, to which a rare latent far out gives a large gradient
MIN_VARIANCE = 1e-6  # relative to the mean variance
MIN_EIGENVALUE = 1e-12
PROCRUSTES_STEPS = 100
IDENTITY_WEIGHT = 1e-9  # relative to the norm of what the appearance features say of a rotation
# The map with its density model, and the networks that read from its codes.
OPTIMIZERS = {
    "map": optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), optax.scale_by_adam()),
    "readers": ADAM,
}


def class_maps(
    z: Float[np.ndarray, "n z"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    appearance: Float[np.ndarray, "n f"],
) -> dict[str, Float[np.ndarray, "..."]]:
    """The affine map of each class, after which its latents have mean 0 and covariance 1.

    A class with few images (for the latent's size) has its covariance shrunk towards that of all (Friedman 1989). The
    rotation that whitening leaves open is chosen by generalised Procrustes analysis (Gower 1975), so that a direction
    changes the appearance in the same way in every class. Directions of which the features say nothing are not rotated.

    Args:
      labels: 0 .. num_classes - 1; a class may have no image.
      appearance: `appearance.appearance_features` of the images.

    Returns:
      Parameters of `Alignment`: 'mean' [k, z], 'matrix' and 'inverse_matrix' [k, z, z], float32.
    """
    z = z.astype(np.float64)
    size, grand_mean = z.shape[1], z.mean(0)
    members = [labels == c for c in range(num_classes)]
    means = np.stack([z[m].mean(0) if m.any() else grand_mean for m in members])
    centred = [z[m] - mean for m, mean in zip(members, means, strict=True)]
    pooled = sum(c.T @ c for c in centred) / len(z)
    pooled += MIN_VARIANCE * np.trace(pooled) / size * np.eye(size)
    # All classes are whitened alike first. Little is left to do for each, which does not rotate them apart.
    whiten = _power(pooled, -0.5)
    maps, responses = [], []
    for m, c in zip(members, centred, strict=True):
        maps.append(_power(whiten @ (c.T @ c + size * pooled) @ whiten / (len(c) + size), -0.5) @ whiten)
        responses.append(maps[-1] @ c.T @ appearance[m] / (len(c) + size))
    response, rotations = np.stack(responses), np.broadcast_to(np.eye(size), (num_classes, size, size))
    for _ in range(PROCRUSTES_STEPS):
        target = (rotations @ response).mean(0) @ response.mT
        identity = IDENTITY_WEIGHT * np.linalg.norm(target, axis=(1, 2), keepdims=True) * np.eye(size)
        left, _, right = np.linalg.svd(target + identity)
        rotations = left @ right
    matrix = rotations @ np.stack(maps)
    arrays = {"mean": means, "matrix": matrix, "inverse_matrix": np.linalg.inv(matrix)}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, MIN_EIGENVALUE) ** exponent) @ vector.T


def init_alignment(helpers: AlignmentHelpers, alignment: Params, key: Key[Array, ""]) -> dict[str, Tree]:
    """What trains the parameters `alignment`: 'params' of the helpers, and by group the states of `OPTIMIZERS`."""
    z, content = jnp.zeros((1, helpers.size)), jnp.zeros((1, helpers.num_classes))
    params = helpers.init(key, z, content, method="init_all")["params"]
    return {"params": params} | {name: OPTIMIZERS[name].init(p) for name, p in _groups(alignment, params).items()}


def _groups(alignment: Params, helpers: Params) -> dict[str, Params]:
    """Parameters, or gradients, by optimiser."""
    readers = {name: helpers[name] for name in ("adversary", "look")}
    reference = {name: value for name, value in helpers.items() if name not in readers}
    return {"map": {"alignment": alignment, **reference}, "readers": readers}


def align_step(
    alignment: Alignment,
    helpers: AlignmentHelpers,
    state: tuple[Params, dict[str, Tree]],
    z: Codes,
    labels: Int[Array, " b"],
    appearance: Float[Array, "b f"],
    targets: Int[Array, " b"],
    progress: Float[Array, ""],
    weights: Weights,
    axis: str | None = None,
) -> tuple[tuple[Params, dict[str, Tree]], Metrics]:
    """The state after an Adam step of the map u = f_y(z), its density model p, and the networks that read its codes.

    The map minimises, with d the size of the latent (see `models/alignment.py`),

        -(log p(u) + log |det f_y'(z)|) / d + style_weight * mean((appearance of swap - appearance of source)^2)

    and, by a gradient reversal, maximises lambda times the adversary's cross-entropy on u (Ganin & Lempitsky 2015).
    Lambda rises to `lambda_adv` over the first `LAMBDA_RAMP` of the phase. p maximises the likelihood, the adversary
    minimises its cross-entropy, and the network that reads appearance features from codes its own squared error.

    Args:
      state: parameters of the alignment, and what `init_alignment` returns.
      targets: classes to swap to, 0 .. classes - 1; every second one is used.
      progress: share of the phase that is done, in [0, 1).
      weights: 'learning_rate', 'style_weight', 'lambda_adv', at least 0.
      axis: as for `autoencoder.train_step`.

    Returns:
      The new state, and from before the step 'log_likelihood' (per dimension, up to a constant), 'style' (squared error
      of the appearance of swaps), 'appearance' (the reader's own), 'adversary' and 'adversary_accuracy'.
    """
    params, opt_state = state
    content = jax.nn.one_hot(labels, alignment.num_classes)
    half = slice(None, None, 2)  # the same rows on any number of devices whose shares are even
    swapped = jax.nn.one_hot(targets[half], alignment.num_classes)
    lam = weights["lambda_adv"] * jnp.minimum(progress / LAMBDA_RAMP, 1)

    def loss(params: Params, helper_params: Params) -> tuple[Float[Array, ""], Metrics]:
        u, log_det = alignment.apply({"params": params}, z, content)
        whitened = alignment.apply({"params": params}, z, content, method="affine")
        log_p, logits = helpers.apply({"params": helper_params}, u, lam)
        log_likelihood = (log_p + log_det).mean() / alignment.size
        adversary, adversary_accuracy = cross_entropy(jnp.asarray(logits), labels)
        read = helpers.apply({"params": helper_params}, whitened, content, method="appearance")
        reader = ((jnp.asarray(read) - appearance) ** 2).mean()
        # The reader must not learn to be pleased by swaps.
        fixed = {"params": jax.lax.stop_gradient(helper_params)}
        swap = alignment.apply({"params": params}, u[half], swapped, method="inverse_couplings")
        style = ((jnp.asarray(helpers.apply(fixed, swap, swapped, method="appearance")) - appearance[half]) ** 2).mean()
        metrics = {
            "log_likelihood": log_likelihood,
            "style": style,
            "appearance": reader,
            "adversary": adversary,
            "adversary_accuracy": adversary_accuracy,
        }
        return weights["style_weight"] * style - log_likelihood + adversary + reader, metrics

    gradients, metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, opt_state["params"])
    if axis is not None:
        gradients, metrics = mean_over((gradients, metrics), axis)
    rate = cosine_decay(progress) * weights["learning_rate"]
    rates = {"map": rate, "readers": READER_RATE_FACTOR * rate}
    groups, slopes = _groups(params, opt_state["params"]), _groups(*gradients)
    updated, moments = {}, {}
    for name, optimizer in OPTIMIZERS.items():
        updated[name], moments[name] = descend(optimizer, slopes[name], groups[name], opt_state[name], rates[name])
    aligned = updated["map"].pop("alignment")
    return (aligned, {"params": updated["map"] | updated["readers"], **moments}), metrics
