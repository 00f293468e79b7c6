"""Training of the alignment on frozen latents: the affine map of each class, the loss, one step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.config import Static
from infoae_jax.devices import hosts
from infoae_jax.devices.batching import model_method
from infoae_jax.devices.collective import mean_over
from infoae_jax.models.autoencoder import InfoAutoencoder, alignment_helpers_of, alignment_of
from infoae_jax.training.optimizer import cross_entropy, scheduled_rate, update
from infoae_jax.training.phase import Phase
from infoae_jax.training.run import Run
from infoae_jax.training.state import TrainState
from infoae_jax.training.stream import pick_views, swap_classes
from infoae_jax.types import Batch, Hyper, Metrics, OptState, Params, Scalar, Variables

LAMBDA_RAMP = 0.3  # share of the phase over which lambda rises
READER_RATE_FACTOR = 0.5  # of the learning rate of the map
MAX_GRADIENT_NORM = 1.0  # of the map, to which a rare latent far out gives a large gradient
CLASS_DECAY = 2.5  # times the weight decay, of the weights by which couplings see the class
MIN_VARIANCE = 1e-6  # relative to the mean variance
MIN_EIGENVALUE = 1e-12
PSEUDO_IMAGES = 100  # per dimension: where data are few, classes keep nearly the same map
READERS = {"adversary": "readers", "appearance_reader": "readers"}  # the helpers' networks with an optimiser apart
CLASS_MAPS = "mean", "matrix", "inverse_matrix"  # [k, z] and twice [k, z, z]
ClassMaps = dict[str, Float[np.ndarray, "..."]]  # arrays of these names
METRICS = "log_likelihood", "distance", "style", "appearance", "adversary", "adversary_accuracy"


def class_maps(z: Float[np.ndarray, "n z"], labels: Int[np.ndarray, " n"], num_classes: int) -> ClassMaps:
    """The affine map of each class, after which its latents have mean 0 and, if it has many images, covariance 1.

    The covariance of a class is shrunk towards that of all (Friedman 1989), as if it had `PSEUDO_IMAGES` more per
    dimension of the latent.

    Args:
      labels: 0 .. num_classes - 1; a class may have no image.

    Returns:
      Constants of `Alignment`, float32.
    """
    z = z.astype(np.float64)
    size, grand_mean = z.shape[1], z.mean(0)
    members = [labels == c for c in range(num_classes)]
    means = np.stack([z[m].mean(0) if m.any() else grand_mean for m in members])
    centred = [z[m] - mean for m, mean in zip(members, means, strict=True)]
    pooled = sum(c.T @ c for c in centred) / len(z)
    pooled += MIN_VARIANCE * np.trace(pooled) / size * np.eye(size)
    # All classes are whitened alike first; the small correction left for each hardly rotates one against another.
    whiten, pseudo = _power(pooled, -0.5), PSEUDO_IMAGES * size
    shrunk = [whiten @ (c.T @ c + pseudo * pooled) @ whiten / (len(c) + pseudo) for c in centred]
    matrix = np.stack([_power(covariance, -0.5) @ whiten for covariance in shrunk])
    arrays = means, matrix, np.linalg.inv(matrix)
    return {name: array.astype(np.float32) for name, array in zip(CLASS_MAPS, arrays, strict=True)}


def match_view(
    view: Float[np.ndarray, "n z"], labels: Int[np.ndarray, " n"], plain: ClassMaps
) -> Float[np.ndarray, "n z"]:
    """Latents of a view of each image, moved so that each class has the mean and covariance of its plain images.

    (The covariance only of classes of many images, as in `class_maps`.) Views spread wider than images do, and what the
    map learns from them would be wrong for images. Once moved, they amount to a smoothed bootstrap that keeps the
    variance (Silverman & Young 1987).

    Args:
      view: latents of the views.
      labels: of the images.
      plain: `class_maps` of the latents of the images themselves.
    """
    own, moved = class_maps(view, labels, len(plain["mean"])), np.empty_like(view)
    for c in range(len(plain["mean"])):
        members = labels == c
        matrix = plain["inverse_matrix"][c] @ own["matrix"][c]
        moved[members] = (view[members] - own["mean"][c]) @ matrix.T + plain["mean"][c]
    return moved


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, MIN_EIGENVALUE) ** exponent) @ vector.T


def make_optimizer(params: Params, rate: Scalar, decay: Scalar, size: int) -> optax.GradientTransformation:
    """One for the map of latents of this size with its density model, and one for the networks that read its codes.

    The weights of the former decay (Loshchilov & Hutter 2019), as couplings fit the training images too closely. Where
    they do so differently in each class, codes of unseen images tell the class: hence `CLASS_DECAY`.
    """

    def decayed(path: tuple[Any, ...], update: Array, weight: Array) -> Array:
        if path[-1].key == "bias":
            return update
        # The first layer of a coupling reads half of the latent, then the class (`models.alignment.Couplings`).
        inputs = jnp.arange(weight.shape[1])[None, :, None]  # stacked
        sees_class = (path[-2].key == "Dense_0") & (inputs >= size // 2)
        return update + decay * jnp.where(sees_class, CLASS_DECAY, 1) * weight

    decays = optax.stateless(functools.partial(jax.tree.map_with_path, decayed))
    adamw = optax.chain(optax.scale_by_adam(), decays, optax.scale_by_learning_rate(rate))
    labels = {"alignment": "map", "alignment_helpers": {n: READERS.get(n, "map") for n in params["alignment_helpers"]}}
    transforms = {
        "map": optax.chain(optax.clip_by_global_norm(MAX_GRADIENT_NORM), adamw),
        "readers": optax.adam(READER_RATE_FACTOR * rate),
    }
    return optax.multi_transform(transforms, labels)


def init_optimizer(params: Params) -> OptState:
    """The optimiser state of `align_step`."""
    return make_optimizer(params, 0.0, 0.0, 0).init(params)


def align_step(
    model: InfoAutoencoder,
    config: Static,
    params: Params,
    frozen: Variables,
    optimizer: OptState,
    batch: Batch,
    hyper: Hyper,
    axis: str | None = None,
) -> tuple[Params, OptState, Metrics]:
    """An Adam step of the map u = f_y(z), its density model p, and the networks that read its codes.

    The map minimises, with d the size of the latent (see `models/alignment.py`),

        -(log p(u) + log |det f_y'(z)|) / d + distance_weight * mean((whitened swap - whitened source)^2)
            + style_weight * mean((appearance of swap - appearance of source)^2)

    and, by a gradient reversal, maximises lambda times the adversary's cross-entropy on u (Ganin & Lempitsky 2015).
    Lambda rises to `lambda_adv` over the first `LAMBDA_RAMP` of the phase. p maximises the likelihood, the adversary
    minimises its cross-entropy, and the network that reads appearance features from codes its own squared error.

    Args:
      config: is not needed.
      params: those of `ALIGNMENT.trains`.
      frozen: the 'constants' of the model.
      optimizer: what `init_optimizer` returns.
      batch: latents 'z' [b, v, d] of each image and its views, 'labels' [b], and 'appearance' [b, v, f].
      hyper: 'learning_rate', 'weight_decay', 'distance_weight', 'style_weight', 'lambda_adv', at least 0,
        'views_share', 0 to 1, and those of `autoencoder.train_step`.
      axis: as for `autoencoder.train_step`.

    Returns:
      Parameters, optimiser state, and from before the step 'log_likelihood' (per dimension, up to a constant),
      'distance' and 'style' (squared errors of the latent and of the appearance of swaps), 'appearance' (the reader's
      own), 'adversary' and 'adversary_accuracy'.
    """
    labels = jnp.asarray(batch["labels"])
    view = pick_views(hyper, batch["z"].shape[1] - 1, len(labels), axis) * (hyper["progress"] < hyper["views_share"])
    z, appearance = (jnp.asarray(batch[name])[jnp.arange(len(labels)), view] for name in ("z", "appearance"))
    targets = swap_classes(hyper, model.num_classes, len(z), axis)
    half = slice(None, None, 2)  # the same rows on any number of devices whose shares are even
    content, swapped = (jax.nn.one_hot(classes, model.num_classes) for classes in (labels, targets[half]))
    lam = hyper["lambda_adv"] * jnp.minimum(hyper["progress"] / LAMBDA_RAMP, 1)
    names = "__call__", "affine", "inverse_couplings"
    forward, affine, backward = (model_method(alignment_of(model), name) for name in names)
    read, predict = (model_method(alignment_helpers_of(model), name) for name in ("__call__", "appearance"))

    def loss(params: Params) -> tuple[Float[Array, ""], Metrics]:
        alignment, helpers = (_of(name, params, frozen) for name in ("alignment", "alignment_helpers"))
        u, log_det = forward(alignment, z, content)
        whitened = affine(alignment, z, content)
        log_p, logits = read(helpers, u, lam)
        log_likelihood = (log_p + log_det).mean() / model.bottleneck
        adversary, adversary_accuracy = cross_entropy(logits, labels)
        reader = ((predict(helpers, whitened, content) - appearance) ** 2).mean()
        swaps = backward(alignment, u[half], swapped)
        distance = ((swaps - whitened[half]) ** 2).mean()
        # The reader must not learn to be pleased by swaps.
        style = ((predict(jax.lax.stop_gradient(helpers), swaps, swapped) - appearance[half]) ** 2).mean()
        values = log_likelihood, distance, style, reader, adversary, adversary_accuracy
        total = hyper["distance_weight"] * distance + hyper["style_weight"] * style - log_likelihood
        return total + adversary + reader, dict(zip(METRICS, values, strict=True))

    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    if axis is not None:
        gradient, metrics = mean_over((gradient, metrics), axis)
    # At the full rate from the first step on, many couplings may send latents far out, and never recover.
    rate = scheduled_rate("warmup_cosine", hyper)
    adam = make_optimizer(params, rate, hyper["weight_decay"], model.bottleneck)
    return *update(adam, gradient, optimizer, params), metrics


def _of(name: str, params: Params, frozen: Variables) -> Variables:
    return {"params": params[name], "constants": frozen["constants"].get(name, {})}


def _begin(run: Run, state: TrainState, fresh: bool) -> tuple[TrainState, Batch]:
    z, labels, appearance = run.latents(state, "encode_unbounded"), run.splits.train.labels, run.appearance
    if fresh:
        constants = state.variables["constants"]
        before = constants["alignment"]
        like = {name: np.zeros(before[name].shape, np.float32) for name in CLASS_MAPS}
        # Computed by the first host for all, as others may round differently.
        maps = hosts.from_first(lambda: class_maps(z, labels, run.model.num_classes), like)
        constants = constants | {"alignment": before | maps}
        state = dataclasses.replace(state, variables=state.variables | {"constants": constants})
    views = [run.latents(state, "encode_unbounded", view) for view in run.views[1:]]
    if run.config.alignment.match_views:
        constants = state.variables["constants"]["alignment"]
        plain = {name: np.asarray(constants[name]) for name in CLASS_MAPS}
        views = [match_view(view, labels, plain) for view in views]
    return state, {"z": np.stack([z, *views], axis=1), "labels": labels, "appearance": appearance}


ALIGNMENT = Phase(
    name="alignment",
    section=lambda config: config.alignment,
    epochs=lambda config: config.alignment.epochs if config.model.couplings else 0,
    trains=("alignment", "alignment_helpers"),
    reads=(),
    metrics=METRICS,
    shown=METRICS,
    init_optimizer=init_optimizer,
    begin=_begin,
    step=align_step,
)
