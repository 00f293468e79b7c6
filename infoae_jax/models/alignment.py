"""Class-conditional invertible alignment: moves the latents so that all classes have one distribution.

An adversary alone leaves much of the class in the latent z, since a decoder needs z near where it was trained.
Alignment asks for nothing of the kind: an invertible map u = f_y(z) of its own for each class sends the latents of
every class to one shared distribution. Then u says nothing about the class, and a swap, D(f_b^-1(f_a(z))), lands where
class b's own latents lie. At use, the class of a style image is the one that the content classifier reads from it, so
no label is needed. Reconstruction is untouched where it reads right, as f_y is undone before the decoder.

    f_y = couplings_y . affine_y
    affine_y    whitens the latents of class y, and turns them so that one direction changes the look of a picture in
                one way, whatever the class (generalised Procrustes analysis, Gower 1975, of the covariances of whitened
                latents and `appearance.appearance_features`)
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
network reads the look (as `appearance.appearance_features` has it) from latent and class, so that no picture is drawn.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from infoae_jax.models.reversal import reverse_gradient

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
        """Appearance features of a latent's image, from what `Alignment.affine` gives for the latent."""
        return self.look(jnp.concatenate([whitened, content], axis=1))

    def everything(self, u: Codes, content: OneHot) -> tuple[Any, Array]:
        """What `init` calls."""
        return self(u, 0.0), self.read_look(u, content)


def _perceptron(hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential([nn.Dense(hidden), nn.relu, nn.Dense(hidden), nn.relu, nn.Dense(out)])
