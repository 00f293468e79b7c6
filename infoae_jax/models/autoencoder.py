"""The Info-autoencoder (Yu & Lu 2019): networks as pure linen modules.

Content is the class (the digit); style is everything else. The paper gives few numbers. Its text follows the
convolutional autoencoder of DCEC (Guo et al. 2017) almost word for word, so what it leaves out is taken from there:

* filters 32, 64, 128; the third convolution is unpadded where a side divided by 4 is odd (28 -> 14 -> 7 -> 3) and
  padded otherwise (32 -> 16 -> 8 -> 4), so that the mirrored decoder returns exactly the size of the image;
* the two fully connected layers are one hidden layer and the linear latent; the decoder mirrors them;
* 'channels 128, 64, 32' of the decoder are the *input* channels of DCEC's three transposed convolutions
  (`decoder='dcec'`); read as output channels (`decoder='literal'`) they need one more convolution to pixels;
* the output is linear and compared with pixels in [0, 1]; clip it before showing it.

Ours: the networks see standardised pixels, and encoder and decoder have leaky rectifiers (Maas et al. 2013; the paper's
are plain). Otherwise a bright background drives the latents far out, half of the units in front of them end up dead (0
for every image), and a few thousand images do not teach colours.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from infoae_jax.config import ContentKind, DecoderKind, Dtype, Latent, ModelConfig, check_image_shape
from infoae_jax.images.appearance import num_features
from infoae_jax.images.pixels import to_float
from infoae_jax.models.alignment import Alignment, AlignmentHelpers
from infoae_jax.models.convolution import Conv, ConvTranspose
from infoae_jax.models.initial import draw
from infoae_jax.models.reversal import reverse_gradient
from infoae_jax.types import Variables

CONTENT_FEATURES = 128  # of the deep content classifier
POLE = 1e-6  # keeps the projection of the sphere finite
# By how much an aligned latent may be longer than the root of its number of dimensions: fewer than one in a million
# normally distributed ones are.
LONGEST = 4.0
AnyArray = Array | np.ndarray
Images = Float[AnyArray, "b h w c"] | UInt8[AnyArray, "b h w c"]
Labels = Int[AnyArray, " b"]


def into_ball(z: Float[Array, "b z"]) -> Float[Array, "b z"]:
    """Scales each latent into the ball whose radius is the root of its size."""
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=1, keepdims=True) + 1)


def from_sphere(p: Float[Array, "b p"]) -> Float[Array, "b p-1"]:
    """Latents from vectors of any length: the stereographic projection of their directions.

    As many numbers as the sphere has dimensions name a point on it. So no length is left over, which would be of no use
    to the decoder but would have to be aligned. Points on the equator have latents as long as the radius of
    `into_ball`'s ball; the one pole that has no projection gets a finite latent.
    """
    size, first, rest = p.shape[1] - 1, p[:, :1], p[:, 1:]
    squared = jnp.sum(rest**2, axis=1, keepdims=True)
    length = jnp.sqrt(squared + first**2 + 1e-12)
    above = length + jnp.abs(first)
    # length + first, without the cancellation near the pole
    height = jnp.where(first < 0, squared / above, above)
    return size**0.5 * rest / (height + POLE * length)


def to_sphere(z: Float[Array, "b z"]) -> Float[Array, "b z+1"]:
    """The points of latents on the sphere, so that each of their numbers is about 1, as layers expect."""
    size, share = z.shape[1], 2 / (1 + jnp.mean(z**2, axis=1, keepdims=True))
    return (size + 1) ** 0.5 * jnp.concatenate([share - 1, share * z / size**0.5], axis=1)


def shorten(u: Float[Array, "b z"], whitened: Float[Array, "b z"]) -> Float[Array, "b z"]:
    """Aligned latents, the very long ones shortened, but not below the length that they had before the couplings.

    On a rare image unlike those of the training, each coupling can magnify what the one before it did. The inverse map
    of another class would send such a latent to where the decoder knows no image.
    """
    before, after = (jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True) + 1e-12) for x in (whitened, u))
    return u * jnp.minimum(1, jnp.maximum(u.shape[1] ** 0.5 + LONGEST, before) / after)


class Encoder(nn.Module):
    """Network A, first half: image -> style latent z, not yet bounded."""

    size: int
    hidden: int
    filters: tuple[int, ...]
    leak: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b z"]:
        # 1. Three strided convolutions.
        activate = functools.partial(nn.leaky_relu, negative_slope=self.leak)
        f1, f2, f3 = self.filters
        inner = tuple((0, 0) if side % 8 else (0, 1) for side in x.shape[1:3])
        h = activate(Conv(f1, (5, 5), (2, 2), "SAME", self.dtype)(x))
        h = activate(Conv(f2, (5, 5), (2, 2), "SAME", self.dtype)(h))
        h = activate(Conv(f3, (3, 3), (2, 2), inner, self.dtype)(h))
        # 2. Two fully connected layers.
        h = activate(nn.Dense(self.hidden, dtype=self.dtype)(h.reshape(h.shape[0], -1)))
        return nn.Dense(self.size, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class Decoder(nn.Module):
    """Network A, second half: style latent and class -> image (linear output, pixels in [0, 1])."""

    image_shape: tuple[int, int, int]
    hidden: int
    filters: tuple[int, ...]
    decoder: DecoderKind
    leak: float
    dtype: Dtype

    @nn.compact
    def __call__(self, z: Float[Array, "b z"], content: Float[Array, "b n"]) -> Float[Array, "b h w c"]:
        height, width, channels = self.image_shape
        f1, f2, f3 = self.filters
        inner = tuple((2, 2) if side % 8 else (2, 1) for side in (height, width))
        # 1. The content joins the latent; two fully connected layers.
        activate = functools.partial(nn.leaky_relu, negative_slope=self.leak)
        h = jnp.concatenate([z, content], axis=1)
        h = activate(nn.Dense(self.hidden, dtype=self.dtype)(h))
        h = activate(nn.Dense(f3 * (height // 8) * (width // 8), dtype=self.dtype)(h))
        h = h.reshape(h.shape[0], height // 8, width // 8, f3)
        # 2. Three strided transposed convolutions, the mirror of the encoder.
        outputs = (f2, f1, channels) if self.decoder == "dcec" else (f3, f2, f1)
        h = activate(ConvTranspose(outputs[0], (3, 3), (2, 2), inner, self.dtype)(h))
        h = activate(ConvTranspose(outputs[1], (5, 5), (2, 2), "SAME", self.dtype)(h))
        is_last = self.decoder == "dcec"
        h = ConvTranspose(outputs[2], (5, 5), (2, 2), "SAME", self.dtype, name="out" if is_last else None)(h)
        return (h if is_last else Conv(channels, (3, 3), dtype=self.dtype, name="out")(activate(h))).astype(jnp.float32)


class Adversary(nn.Module):
    """Network B: style latent -> logits of the class, behind a gradient reversal."""

    num_classes: int
    hidden: int
    dtype: Dtype

    @nn.compact
    def __call__(self, z: Float[Array, "b z"], lam: Float[Array, ""] | float) -> Float[Array, "b n"]:
        h = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(reverse_gradient(z, lam)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class ContentClassifier(nn.Module):
    """The paper's 'shallow network' (Eq. 2): image -> logits of its class, trained apart from the autoencoder."""

    num_classes: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        h = nn.relu(Conv(16, (5, 5), (2, 2), "SAME", self.dtype)(x))
        h = nn.relu(Conv(32, (5, 5), (2, 2), "SAME", self.dtype)(h))
        h = nn.relu(nn.Dense(128, dtype=self.dtype)(h.reshape(h.shape[0], -1)))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class DeepContentClassifier(nn.Module):
    """A content network for complex images (section 2.2 of the paper), as deep as the style encoder.

    The paper attaches an autoencoder to it. Its decoder is left out, as it did not help (docs/pages/failed.md).
    """

    num_classes: int
    hidden: int
    filters: tuple[int, ...]
    leak: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        features = nn.relu(Encoder(CONTENT_FEATURES, self.hidden, self.filters, self.leak, self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="out")(features).astype(jnp.float32)


class InfoAutoencoder(nn.Module):
    """All networks together, for use through `apply`: `model.apply(variables, images, labels, method='transfer')`.

    Images are uint8 (0..255) or float (in [0, 1]). Labels are not checked, as they may be traced: one outside
    0 .. num_classes - 1 stands for no class at all. The layers compute in `dtype`; all else is float32.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    bottleneck: int
    latent: Latent
    hidden: int
    filters: tuple[int, ...]
    leak: float
    decoder: DecoderKind
    adversary_hidden: int
    couplings: int
    coupling_hidden: int
    reference_couplings: int
    content: ContentKind
    dtype: Dtype

    def setup(self) -> None:
        # Of the training images, set before the first step (`training.schedule.init_state`).
        self.pixel_mean = self.variable("constants", "pixel_mean", jnp.zeros, (1, 1, 1, self.image_shape[-1]))
        self.pixel_deviation = self.variable("constants", "pixel_deviation", jnp.ones, ())
        size = self.bottleneck + (self.latent == "sphere")
        self.style_encoder = Encoder(size, self.hidden, self.filters, self.leak, self.dtype)
        self.image_decoder = Decoder(self.image_shape, self.hidden, self.filters, self.decoder, self.leak, self.dtype)
        self.adversary = Adversary(self.num_classes, self.adversary_hidden, self.dtype)
        if self.content == "deep":
            sizes = self.num_classes, self.hidden, self.filters, self.leak, self.dtype
            self.content_classifier: nn.Module = DeepContentClassifier(*sizes)
        else:
            self.content_classifier = ContentClassifier(self.num_classes, self.dtype)
        if self.couplings:
            self.alignment, self.alignment_helpers = alignment_of(self), alignment_helpers_of(self)

    def __call__(self, images: Images, labels: Labels) -> dict[str, Array]:
        """All networks once, for `init`."""
        z = self.encode(images)
        if self.couplings:
            self.alignment_helpers.all(z, jax.nn.one_hot(labels, self.num_classes))
        return {
            "z": z,
            "reconstruction": self.decode(z, labels),
            "adversary_logits": self.adversary_logits(self.encode_raw(images), 0.0),
            "content_logits": self.classify(images),
        }

    def encode(self, images: Images, labels: Labels | None = None) -> Float[Array, "b z"]:
        """The style latent of each image, aligned (by its label or else its most likely class) if the model is.

        Where classes share the normal distribution, very long aligned latents are shortened (`shorten`).
        """
        if not self.couplings:
            return self.encode_raw(images)
        z = self.encode_unbounded(images)
        content = jax.nn.one_hot(self.classify(images).argmax(axis=1) if labels is None else labels, self.num_classes)
        u = self.alignment(z, content)[0]
        # Codes of a learned distribution may be of any length.
        return u if self.reference_couplings else shorten(u, self.alignment.affine(z, content))

    def decode(self, z: Float[AnyArray, "b z"], labels: Labels) -> Float[Array, "b h w c"]:
        """Images with style latents `z` and classes `labels` (0 .. num_classes - 1), not clipped to [0, 1]."""
        z = jnp.asarray(z)
        if self.couplings:
            z = self.alignment.inverse(z, jax.nn.one_hot(labels, self.num_classes))
            z = into_ball(z) if self.latent == "ball" else z
        return self.decode_raw(z, labels)

    def encode_raw(self, images: Images) -> Float[Array, "b z"]:
        """The raw latent, before the alignment; `decode_raw` is its counterpart.

        With an unbounded latent the encoder can beat the adversary by scale alone, as it does in the paper's recipe. On
        a sphere (Davidson et al. 2018) or within a ball it cannot.
        """
        z = self.encode_unbounded(images)
        return into_ball(z) if self.latent == "ball" else z

    def encode_unbounded(self, images: Images) -> Float[Array, "b z"]:
        """The latent that the alignment takes: that of `encode_raw`, except that the ball's is not yet scaled.

        The encoder drives the scaled one to the ball's surface, a thin, curved shell on which densities are hard to
        match. Unscaled it fills the whole space, as the sphere's projection does.
        """
        z = self.style_encoder(self._standardised(images))
        return from_sphere(z) if self.latent == "sphere" else z

    def decode_raw(self, z: Float[AnyArray, "b z"], labels: Labels) -> Float[Array, "b h w c"]:
        """Images from raw latents, as `encode_raw` gives them."""
        return self._pixels(self.image_decoder(self._point(z), jax.nn.one_hot(labels, self.num_classes)))

    def _point(self, z: Float[AnyArray, "b z"]) -> Float[Array, "b p"]:
        """Raw latents as the decoder and the adversary take them."""
        return to_sphere(jnp.asarray(z)) if self.latent == "sphere" else jnp.asarray(z)

    def adversary_logits(self, z: Float[AnyArray, "b z"], lam: Float[Array, ""] | float) -> Float[Array, "b n"]:
        """The adversary's logits on raw latents; the gradient to `z` is reversed and scaled by `lam`."""
        return self.adversary(self._point(z), lam)

    def classify(self, images: Images) -> Float[Array, "b n"]:
        """The content classifier's logits of each image; their arg-max is a label as `decode` takes it."""
        return self.content_classifier(self._standardised(images))

    def transfer(self, style_images: Images, labels: Labels) -> Float[Array, "b h w c"]:
        """Images with the style of `style_images` and the classes `labels`, not clipped to [0, 1]."""
        return self.decode(self.encode(style_images), labels)

    def _standardised(self, images: Images) -> Float[Array, "b h w c"]:
        return (jnp.asarray(to_float(images)) - self.pixel_mean.value) / self.pixel_deviation.value

    def _pixels(self, standardised: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return standardised * self.pixel_deviation.value + self.pixel_mean.value


def alignment_of(model: InfoAutoencoder) -> Alignment:
    """The alignment as a module by itself, for the variables that `model` has under that name."""
    return Alignment(model.bottleneck, model.num_classes, model.couplings, model.coupling_hidden)


def alignment_helpers_of(model: InfoAutoencoder) -> AlignmentHelpers:
    """The same of the networks that train the alignment."""
    sizes = model.bottleneck, model.num_classes, model.coupling_hidden, num_features(model.image_shape[-1])
    return AlignmentHelpers(*sizes, model.reference_couplings)


def build(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int, dtype: Dtype = "float32"
) -> InfoAutoencoder:
    """The model for images of `image_shape` (height, width, channels); `UserError` if it cannot have this size."""
    check_image_shape(image_shape)
    return InfoAutoencoder(image_shape=image_shape, num_classes=num_classes, dtype=dtype, **dataclasses.asdict(config))


def fresh_variables(model: InfoAutoencoder, seed: int) -> Variables:
    """Initial variables of `model`, on the host: a pure function of `seed`."""
    return draw(variable_shapes(model), seed)


@functools.lru_cache(8)  # as the trials of a sweep have the same
def variable_shapes(model: InfoAutoencoder) -> Variables:
    """Shapes and dtypes of the variables of `model`. Nothing of their size is allocated."""
    example = jnp.zeros((1, *model.image_shape), jnp.uint8), jnp.zeros(1, jnp.int32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *example))
