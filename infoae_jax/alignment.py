"""Class-conditional invertible alignment: moves the latents so that all classes have one distribution.

An adversary alone leaves much of the class in the latent z, since a decoder needs z near where it was trained.
Alignment asks for nothing of the kind: an invertible map u = f_y(z) of its own for each class sends the latents of
every class to one shared distribution. Then u says nothing about the class, and a swap, D(f_b^-1(f_a(z))), lands where
class b's own latents lie. At use, the class of a style image is the one that the content classifier reads from it, so
no label is needed. Reconstruction is untouched where it reads right, as f_y is undone before the decoder.

    f_y = couplings_y . affine_y
    affine_y    whitens the latents of class y, and turns them so that one direction changes the look of a picture in
                one way, whatever the class (generalised Procrustes analysis, Gower 1975, of the covariances of whitened
                latents and `glance.styles`)
    couplings   affine couplings (Dinh et al. 2017) that see the class, each in a random rotation of its own; at first
                the identity

trained on the frozen latents by maximum likelihood, as Usman et al. 2020 and Cho et al. 2022 align distributions: with
p a density model that does not see the class (couplings again, of no use afterwards),

    E[-log p(f_y(z)) - log |det f_y'(z)|]  >=  I(u; y) + constant,

with equality for the best p: the mutual information of code and class is what is left to minimise. (The weights below
are relative to this loss divided by the latent's size.) A p of few
couplings asks for more, as every class must then have a distribution that is as simple. Two terms stand beside it. A
small adversary on u behind a gradient reversal finds what p is too coarse for. The other says which of the many such
maps is wanted, one that keeps styles together: style_weight * |look of the swap - look of the source|^2, where a small
network reads the look (as `glance.styles` has it) from latent and class, so that no picture is drawn.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.collective import mean_over
from infoae_jax.config import AlignmentConfig
from infoae_jax.reversal import reverse_gradient

_RAMP = 0.3  # share of the training over which lambda rises
_CLIP = 1.0  # norm of the gradient, as a rare latent far out has a large one
_READERS_RATE = 0.5  # of the learning rate of the map
_LEAST = 1e-6  # of a variance, relative to the mean variance
_PROCRUSTES_STEPS = 100
_STILL = 1e-9  # weight of the identity, against the norm of what the looks say of a turn
_MOST_LOG_SCALE = 0.8  # of one coupling, so that no layer is nearly singular
_ADVERSARY_HIDDEN, _READER_HIDDEN = 256, 128
# By default GPUs (TF32) and TPUs (bfloat16) round the factors of a product, and `inverse` would not undo the map. The
# networks that only read from codes need no such care.
_EXACT = jax.lax.Precision.HIGHEST
_product = functools.partial(jnp.matmul, precision=_EXACT)
_einsum = functools.partial(jnp.einsum, precision=_EXACT)
_Dense = functools.partial(nn.Dense, precision=_EXACT)

Codes = Float[Array, "b z"]
OneHot = Float[Array, "b n"]


class Couplings(nn.Module):
    """Invertible map of `size` dimensions, the identity at first; `condition` may be an array with 0 columns."""

    size: int
    count: int
    hidden: int

    def setup(self):
        out = self.size - self.size // 2
        self.layers = [
            nn.Sequential(
                [
                    _Dense(self.hidden),
                    nn.relu,
                    _Dense(self.hidden),
                    nn.relu,
                    _Dense(2 * out, kernel_init=nn.initializers.zeros),
                ]
            )
            for _ in range(self.count)
        ]
        # Kept with the parameters, as another machine may draw others; never trained.
        self.rotations = self.param("rotations", _rotations, (self.count, self.size, self.size))

    def __call__(self, x: Codes, condition: OneHot) -> tuple[Codes, Float[Array, " b"]]:
        """The image of x, and the logarithm of the Jacobian's determinant."""
        log_det = jnp.zeros(x.shape[0], x.dtype)
        for layer, rotation in zip(self.layers, jax.lax.stop_gradient(self.rotations), strict=True):
            kept, moved = jnp.split(_product(x, rotation), [self.size // 2], axis=1)
            log_scale, shift = self._scale_and_shift(layer, kept, condition)
            x = _product(jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=1), rotation.T)
            log_det += log_scale.sum(1)
        return x, log_det

    def inverse(self, y: Codes, condition: OneHot) -> Codes:
        """The x whose image is y."""
        rotations = jax.lax.stop_gradient(self.rotations)
        for layer, rotation in reversed(list(zip(self.layers, rotations, strict=True))):
            kept, moved = jnp.split(_product(y, rotation), [self.size // 2], axis=1)
            log_scale, shift = self._scale_and_shift(layer, kept, condition)
            y = _product(jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=1), rotation.T)
        return y

    @staticmethod
    def _scale_and_shift(layer: Callable, kept: Array, condition: OneHot) -> tuple[Array, Array]:
        log_scale, shift = jnp.split(layer(jnp.concatenate([kept, condition], axis=1)), 2, axis=1)
        return _MOST_LOG_SCALE * jnp.tanh(log_scale), shift


def _rotations(key: Any, shape: tuple[int, int, int]) -> Float[Array, "k z z"]:
    """Independent random orthogonal matrices, as products of reflections.

    A QR decomposition would be shorter, but on several CPU devices XLA can deadlock in LAPACK's calls.
    """
    normals = jax.random.normal(key, (shape[1], shape[0], shape[2]))
    normals /= jnp.linalg.norm(normals, axis=2, keepdims=True)

    def reflect(i: Array, matrices: Array) -> Array:
        normal = normals[i][:, :, None]
        return matrices - 2 * normal * (normal * matrices).sum(axis=1, keepdims=True)

    return jax.lax.fori_loop(0, shape[1], reflect, jnp.broadcast_to(jnp.eye(shape[2]), shape))


class Alignment(nn.Module):
    """u = f_y(z), the identity at first. Classes are one-hot vectors; one of zeros gives a u without meaning."""

    size: int
    num_classes: int
    count: int
    hidden: int

    def setup(self):
        self.couplings = Couplings(self.size, self.count, self.hidden)

        def identity(key: Any, shape: tuple[int, ...]) -> Array:
            return jnp.broadcast_to(jnp.eye(self.size), shape)

        # Set once from the latents of the training images (`class_maps`), never trained.
        self.mean = self.param("mean", nn.initializers.zeros, (self.num_classes, self.size))
        self.matrix = self.param("matrix", identity, (self.num_classes, self.size, self.size))
        self.inverse_matrix = self.param("inverse_matrix", identity, (self.num_classes, self.size, self.size))

    def __call__(self, z: Codes, content: OneHot) -> tuple[Codes, Float[Array, " b"]]:
        """u, and log |det f_y'(z)| of the couplings (the affine part's is constant for each class)."""
        return self.couplings(self.affine(z, content), content)

    def affine(self, z: Codes, content: OneHot) -> Codes:
        """The first half of the map: the latent, whitened and turned as its class wants it."""
        mean, matrix = jax.lax.stop_gradient((self.mean, self.matrix))
        return _einsum("bn,nij,bj->bi", content, matrix, z - _product(content, mean))

    def inverse(self, u: Codes, content: OneHot) -> Codes:
        """The z of which this is the u."""
        mean, inverse_matrix = jax.lax.stop_gradient((self.mean, self.inverse_matrix))
        whitened = self.inverse_couplings(u, content)
        return _einsum("bn,nij,bj->bi", content, inverse_matrix, whitened) + _product(content, mean)

    def inverse_couplings(self, u: Codes, content: OneHot) -> Codes:
        """What `affine` gives for the latent."""
        return self.couplings.inverse(u, content)


class Helpers(nn.Module):
    """What is only needed to train the alignment: the density model, the adversary, and what reads looks."""

    size: int
    num_classes: int
    hidden: int
    features: int
    reference_couplings: int

    def setup(self):
        if self.reference_couplings:
            self.reference = Couplings(self.size, self.reference_couplings, self.hidden)
        self.adversary = _perceptron(_ADVERSARY_HIDDEN, self.num_classes)
        self.look = _perceptron(_READER_HIDDEN, self.features)

    def __call__(self, u: Codes, lam: Float[Array, ""] | float) -> tuple[Float[Array, " b"], Float[Array, "b n"]]:
        """log p(u) up to a constant, and the adversary's logits (the gradient to u reversed and scaled by `lam`)."""
        v, log_det = u, jnp.zeros(len(u), u.dtype)
        if self.reference_couplings:
            v, log_det = self.reference(u, jnp.zeros((len(u), 0), u.dtype))
        return log_det - 0.5 * (v**2).sum(1), self.adversary(reverse_gradient(u, lam))

    def read_look(self, whitened: Codes, content: OneHot) -> Float[Array, "b f"]:
        """How the picture of a latent looks (`glance.styles`), from what `Alignment.affine` gives for the latent."""
        return self.look(jnp.concatenate([whitened, content], axis=1))

    def everything(self, u: Codes, content: OneHot) -> tuple[Any, Array]:
        """What `init` calls."""
        return self(u, 0.0), self.read_look(u, content)


def _perceptron(hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential([nn.Dense(hidden), nn.relu, nn.Dense(hidden), nn.relu, nn.Dense(out)])


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
      looks: `glance.styles` of the images.
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


def init_training(helpers: Helpers, alignment: Any, key: Any) -> dict[str, Any]:
    """The state of the training beside the parameters `alignment`."""
    z, content = jnp.zeros((1, helpers.size)), jnp.zeros((1, helpers.num_classes))
    params = helpers.init(key, z, content, method="everything")["params"]
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
    helpers: Helpers,
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
      looks: `glance.styles` of the images.
      targets: classes to swap to, of any kind; every second one is used.
      progress: share of this training that is done, in [0, 1).
      axis: as for `step.train_step`.

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
        read = helpers.apply({"params": helper_params}, start, content, method="read_look")
        look = ((jnp.asarray(read) - looks) ** 2).mean()
        # The reader must not learn to be pleased by swaps.
        fixed = {"params": jax.lax.stop_gradient(helper_params)}
        swap = alignment.apply({"params": params}, u[some], swapped, method="inverse_couplings")
        style = ((jnp.asarray(helpers.apply(fixed, swap, swapped, method="read_look")) - looks[some]) ** 2).mean()
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
