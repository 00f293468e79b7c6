"""Class-conditional invertible alignment: moves the latents so that all classes have one distribution.

An adversary alone leaves much of the class in the latent z, since the decoder needs z near where it was trained.
Alignment has no such conflict: each class y has an invertible map u = f_y(z) that sends its latents to a distribution
shared by all classes. Then u says nothing about the class, and a swap, D(f_b^-1(f_a(z))), lands where class b's own
latents lie. Without a label, y is what the content classifier predicts for the style image.

    f_y = couplings_y . affine_y
    affine_y    whitens the latents of class y; classes of few images share the whitening of all
    couplings   affine couplings (Dinh et al. 2017) that see the class, each in its own random rotation; the identity
                at first

They are trained on frozen latents by maximum likelihood, as Usman et al. 2020 and Cho et al. 2022 align distributions.
With a density model p that does not see the class (couplings again, of no use afterwards),

    E[-log p(f_y(z)) - log |det f_y'(z)|]  >=  I(u; y) + constant,

with equality for the best p: it remains to minimise the mutual information of code and class. A p of few couplings
demands more, as every class must then have a distribution that is as simple. Two terms are added. A small adversary on
u behind a gradient reversal finds what p is too coarse for. The other selects, among the many such maps, one that keeps
styles together: a swap's whitened latent is to be near that of its source, and its appearance features, which a small
network predicts from latent and class, near those of the source. (For colour images the first is enough.)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from infoae_jax.models.reversal import reverse_gradient
from infoae_jax.types import Tree

MAX_LOG_SCALE = 0.8  # of one coupling, so that no layer is nearly singular
ADVERSARY_WIDTH, APPEARANCE_WIDTH = 256, 128
# By default GPUs (TF32) and TPUs (bfloat16) round the factors of a product, and `inverse` would not undo the map. The
# networks that only read codes need no such care.
_EXACT = jax.lax.Precision.HIGHEST
_product = functools.partial(jnp.matmul, precision=_EXACT)
_einsum = functools.partial(jnp.einsum, precision=_EXACT)
Codes = Float[Array, "b z"]
OneHot = Float[Array, "b n"]
PerImage = Float[Array, " b"]


class Perceptron(nn.Module):
    """Two hidden layers, and a linear one that is called `last`."""

    hidden: int
    out: int
    precision: jax.lax.Precision | None = None
    last: str = "out"

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        dense = functools.partial(nn.Dense, precision=self.precision)
        h = nn.relu(dense(self.hidden)(x))
        h = nn.relu(dense(self.hidden)(h))
        return dense(self.out, name=self.last)(h)


class Couplings(nn.Module):
    """Invertible map of `size` dimensions, the identity at first, given a condition of `condition_size` (may be 0)."""

    size: int
    condition_size: int
    count: int
    hidden: int

    def setup(self) -> None:
        # Those of all couplings, stacked: `scan` compiles one coupling, and not each.
        self.layers = self.param("layers", self._init_layers)
        # Before each coupling and after the last one; stored, as another machine may draw others.
        shape = self.count + 1, self.size, self.size
        self.rotations = self.variable("constants", "rotations", jnp.zeros, shape)

    def _network(self) -> Perceptron:
        return Perceptron(self.hidden, 2 * (self.size - self.size // 2), _EXACT, "change", parent=None)

    def _init_layers(self, key: Array) -> Tree:
        example = jnp.zeros((1, self.size // 2 + self.condition_size))
        return jax.vmap(lambda key: self._network().init(key, example)["params"])(jax.random.split(key, self.count))

    def __call__(self, x: Codes, condition: OneHot) -> tuple[Codes, PerImage]:
        """The image of x under the map, and the logarithm of the Jacobian's determinant."""

        def step(carry: tuple[Codes, PerImage], coupling: tuple[Tree, Array]) -> tuple[tuple[Codes, PerImage], None]:
            (x, log_det), (layer, rotation) = carry, coupling
            fixed, moved, log_scale, shift = self._split(layer, x, condition)
            x = _product(jnp.concatenate([fixed, moved * jnp.exp(log_scale) + shift], axis=1), rotation)
            return (x, log_det + log_scale.sum(1)), None

        first, others = self.rotations.value[0], self.rotations.value[1:]
        start = _product(x, first), jnp.zeros(x.shape[0], x.dtype)
        return jax.lax.scan(step, start, (self.layers, others))[0]

    def inverse(self, y: Codes, condition: OneHot) -> Codes:
        """The x that the map sends to y."""

        def step(y: Codes, coupling: tuple[Tree, Array]) -> tuple[Codes, None]:
            layer, rotation = coupling
            fixed, moved, log_scale, shift = self._split(layer, _product(y, rotation.T), condition)
            return jnp.concatenate([fixed, (moved - shift) * jnp.exp(-log_scale)], axis=1), None

        first, others = self.rotations.value[0], self.rotations.value[1:]
        return _product(jax.lax.scan(step, y, (self.layers, others), reverse=True)[0], first.T)

    def _split(self, layer: Tree, x: Codes, condition: OneHot) -> tuple[Array, ...]:
        fixed, moved = jnp.split(x, [self.size // 2], axis=1)
        change = self._network().apply({"params": layer}, jnp.concatenate([fixed, condition], axis=1))
        log_scale, shift = jnp.split(jnp.asarray(change), 2, axis=1)
        return fixed, moved, MAX_LOG_SCALE * jnp.tanh(log_scale), shift


class Alignment(nn.Module):
    """u = f_y(z), the identity at first. Classes are one-hot vectors; a vector of zeros gives a meaningless u."""

    size: int
    num_classes: int
    count: int
    hidden: int

    def setup(self) -> None:
        self.couplings = Couplings(self.size, self.num_classes, self.count, self.hidden)
        # Computed once from the latents of the training images (`training.alignment.class_maps`).
        self.mean, self.matrix, self.inverse_matrix = (
            self.variable("constants", name, jnp.zeros, (self.num_classes, *(self.size,) * dimensions))
            for name, dimensions in (("mean", 1), ("matrix", 2), ("inverse_matrix", 2))
        )

    def __call__(self, z: Codes, content: OneHot) -> tuple[Codes, PerImage]:
        """u, and log |det f_y'(z)| of the couplings (the affine part's is constant for each class)."""
        return self.couplings(self.affine(z, content), content)

    def affine(self, z: Codes, content: OneHot) -> Codes:
        """The first half of the map: the latent, whitened for its class."""
        return _einsum("bn,nij,bj->bi", content, self.matrix.value, z - _product(content, self.mean.value))

    def inverse(self, u: Codes, content: OneHot) -> Codes:
        """The z that the map sends to u."""
        centred = _einsum("bn,nij,bj->bi", content, self.inverse_matrix.value, self.inverse_couplings(u, content))
        return centred + _product(content, self.mean.value)

    def inverse_couplings(self, u: Codes, content: OneHot) -> Codes:
        """The first half of that z's map, as `affine` gives it."""
        return self.couplings.inverse(u, content)


class AlignmentHelpers(nn.Module):
    """Networks that only train the alignment: the density model, the adversary, and the predictor of appearance."""

    size: int
    num_classes: int
    hidden: int
    features: int
    reference_couplings: int

    def setup(self) -> None:
        if self.reference_couplings:
            self.reference = Couplings(self.size, 0, self.reference_couplings, self.hidden)
        self.adversary = Perceptron(ADVERSARY_WIDTH, self.num_classes)
        self.appearance_reader = Perceptron(APPEARANCE_WIDTH, self.features)

    def __call__(self, u: Codes, lam: Float[Array, ""] | float) -> tuple[PerImage, OneHot]:
        """log p(u) up to a constant, and the adversary's logits (the gradient to u reversed and scaled by `lam`)."""
        v, log_det = u, jnp.zeros(len(u), u.dtype)
        if self.reference_couplings:
            v, log_det = self.reference(u, jnp.zeros((len(u), 0), u.dtype))
        return log_det - 0.5 * (v**2).sum(1), self.adversary(reverse_gradient(u, lam))

    def appearance(self, whitened: Codes, content: OneHot) -> Float[Array, "b f"]:
        """Appearance features predicted for a latent's image, from what `Alignment.affine` gives for the latent."""
        return self.appearance_reader(jnp.concatenate([whitened, content], axis=1))

    def all(self, u: Codes, content: OneHot) -> tuple[PerImage, OneHot, Float[Array, "b f"]]:
        """All networks once, for `init`."""
        return *self(u, 0.0), self.appearance(u, content)
