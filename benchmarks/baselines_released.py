"""MNIST models whose weights their authors or re-implementers released, as systems that `evaluation.measure` measures.

The weights are those of A. H. Jha's PyTorch repositories (github.com/ananyahjha93, MIT licence), their arrays saved
under their names: `MODEL__encoder.npz` and `MODEL__decoder.npz` for each model in `MODELS`.

* Cycle-VAE (Jha et al. 2018), by its authors: cycle-consistent-vae, `checkpoints/`. These weights are older than the
  repository's `networks.py`, whose names differ, and whose decoder has leaky ReLUs. With plain ReLUs the statistics
  that were saved with the weights are those of its layers (off by .06 and .002 of their spread over the channels; with
  leaky ones by .53 and .29), and its error falls from .053 to .030. So its decoder was trained with ReLUs, and that is
  'Cycle-VAE' here; 'Cycle-VAE, networks.py' is what one gets who loads the weights into the repository's code.
* Mathieu et al. 2016: disentangling-factors-of-variation-using-adversarial-training, `checkpoints/`.
* Szabo et al. 2018: challenges-in-disentangling, `checkpoints/`.
* ML-VAE (Bouchacourt et al. 2018): multi-level-vae, `checkpoints/`, with noise of deviation 1 or 0.1 on class codes.

One encoder gives a code of the style and one of the class, and the decoder takes both; images are 28x28, with pixels in
[0, 1]. Where labels stand for the class, as here, its code is the mean of those of the training images of the class.
Instance normalisation takes each image's own statistics, as these programs did when they generated: they never left
the mode of training. (With the running statistics, which were saved too, they are other functions.)
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from infoae_jax.data.dataset import Dataset
from infoae_jax.devices.batching import make_batched
from infoae_jax.evaluation.metrics import Images, Labels, Latents, System
from infoae_jax.images.pixels import to_float

Weights = dict[str, Array]
_convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=("NCHW", "OIHW", "NCHW"))
_EPSILON = 1e-5  # of PyTorch's instance normalisation


class Released(NamedTuple):
    """A released model.

    Attributes:
      name: with which the names of its files begin.
      suffix: with which they end.
      encode: weights and images to what `parts` names, side by side: [b, parts x size].
      parts: 'style' (its mean, if it is random), 'log_variance' of the style, 'class'.
      decode: weights, codes of style, and of the class, to images.
    """

    name: str
    suffix: str
    encode: Callable[[Weights, UInt8[Array, "b h w 1"]], Float[Array, "b f"]]
    parts: tuple[str, ...]
    decode: Callable[[Weights, Float[Array, "b z"], Float[Array, "b c"]], Float[Array, "b h w 1"]]


def _linear(w: Weights, name: str, x: Float[Array, "b f"]) -> Float[Array, "b g"]:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"][None]


def _normalised(x: Float[Array, "b c h w"]) -> Float[Array, "b c h w"]:
    """Instance normalisation: each channel of each image to mean 0 and variance 1."""
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - mean) * lax.rsqrt(variance + _EPSILON)


def _encode_convolutions(outputs: tuple[str, ...], w: Weights, images: UInt8[Array, "b h w 1"]) -> Float[Array, "b f"]:
    """Three strided convolutions, then a linear layer for each of `outputs`."""
    x = jnp.asarray(to_float(images)).transpose(0, 3, 1, 2)
    for i in (1, 2, 3):
        layer = f"conv_model.convolution_{i}"
        x = _convolve(x, w[f"{layer}.weight"], (2, 2), ((1, 1), (1, 1)))
        x = jax.nn.relu(_normalised(x + w[f"{layer}.bias"][None, :, None, None]))
    return jnp.concatenate([_linear(w, name, x.reshape(len(x), -1)) for name in outputs], axis=1)


def _decode_convolutions(
    inputs: tuple[str, str],
    slopes: tuple[float, float],
    w: Weights,
    style: Float[Array, "b z"],
    content: Float[Array, "b c"],
) -> Float[Array, "b h w 1"]:
    """A linear layer for each code, then three transposed convolutions; `slopes`: of leaky ReLUs after them."""
    both = jnp.concatenate([_linear(w, inputs[0], style), _linear(w, inputs[1], content)], axis=1)
    x = jax.nn.leaky_relu(both, slopes[0]).reshape(-1, 128, 2, 2)
    for i, padding in ((1, 0), (2, 0), (3, 1)):
        layer = f"deconv_model.deconvolution_{i}"
        kernel = jnp.flip(w[f"{layer}.weight"], (2, 3)).swapaxes(0, 1)
        low = kernel.shape[-1] - 1 - padding
        x = _convolve(x, kernel, (1, 1), ((low, low), (low, low)), lhs_dilation=(2, 2))
        x = x + w[f"{layer}.bias"][None, :, None, None]
        x = jax.nn.leaky_relu(_normalised(x), slopes[1]) if i < 3 else jax.nn.sigmoid(x)
    return x.transpose(0, 2, 3, 1)


def _encode_dense(outputs: tuple[str, ...], w: Weights, images: UInt8[Array, "b h w 1"]) -> Float[Array, "b f"]:
    x = jnp.tanh(_linear(w, "linear_model.linear_1", jnp.asarray(to_float(images)).reshape(len(images), -1)))
    return jnp.concatenate([_linear(w, name, x) for name in outputs], axis=1)


def _decode_dense(w: Weights, style: Float[Array, "b z"], content: Float[Array, "b c"]) -> Float[Array, "b h w 1"]:
    x = jnp.tanh(_linear(w, "linear_model.linear_1", jnp.concatenate([style, content], axis=1)))
    return jax.nn.sigmoid(_linear(w, "linear_model.linear_2", x)).reshape(len(x), 28, 28, 1)


_RANDOM = ("style", "log_variance", "class")
_ML_VAE = functools.partial(_encode_dense, ("style_mu", "style_logvar", "class_mu"))
_CYCLE_VAE_INPUTS = "varying_factor", "common_factor"
_CYCLE_VAE = Released(
    "cycle-vae",
    "",
    functools.partial(_encode_convolutions, ("varying_factor_mu", "varying_factor_logvar", "common_factor")),
    _RANDOM,
    functools.partial(_decode_convolutions, _CYCLE_VAE_INPUTS, (0.0, 0.0)),
)
MODELS = {
    "Cycle-VAE": _CYCLE_VAE,
    "Cycle-VAE, networks.py": _CYCLE_VAE._replace(
        decode=functools.partial(_decode_convolutions, _CYCLE_VAE_INPUTS, (0.2, 0.2))
    ),
    "Mathieu": Released(
        "mathieu",
        "",
        functools.partial(_encode_convolutions, ("style_mu", "style_logvar", "class_output")),
        _RANDOM,
        functools.partial(_decode_convolutions, ("style_input", "class_input"), (0.2, 0.2)),
    ),
    "Szabo": Released(
        "szabo",
        "",
        functools.partial(_encode_convolutions, ("fully_connected_varying_factor", "fully_connected_common_factor")),
        ("style", "class"),
        functools.partial(
            _decode_convolutions, ("fully_connected_varying_factor", "fully_connected_common_factor"), (1.0, 0.0)
        ),
    ),
    "ML-VAE, noise 1": Released("ml-vae", "_1_var_reparam", _ML_VAE, _RANDOM, _decode_dense),
    "ML-VAE, noise 0.1": Released("ml-vae", "_0.1_var_reparam", _ML_VAE, _RANDOM, _decode_dense),
}


def released_system(model: Released, folder: Path, train: Dataset, mesh: Mesh, sampled: bool = False) -> System:
    """The model as a system whose labels stand for the mean class code of the training images.

    Args:
      folder: of the weights.
      train: images for the class codes.
      sampled: give the decoder a sample of a random style, not its mean; the noise is new in each call.
    """
    pixels = train.images.shape[1] * train.images.shape[2]
    weights = [dict(np.load(folder / f"{model.name}__{half}{model.suffix}.npz")) for half in ("encoder", "decoder")]
    encode_all = functools.partial(make_batched(model.encode, mesh, pixels), weights[0])
    decode_codes = functools.partial(make_batched(model.decode, mesh, pixels), weights[1])
    rng = np.random.default_rng(0)

    def parts(images: Images) -> dict[str, np.ndarray]:
        return dict(zip(model.parts, np.split(encode_all(images), len(model.parts), axis=1), strict=True))

    codes = parts(train.images)["class"]
    class_codes = np.stack([codes[train.labels == c].mean(0) for c in range(len(train.class_names))])

    def encode(images: Images) -> Latents:
        found = parts(images)
        if not sampled:
            return found["style"]
        deviation = np.exp(found["log_variance"] / 2)
        return found["style"] + deviation * rng.standard_normal(deviation.shape, np.float32)

    def decode(z: Latents, labels: Labels) -> Float[np.ndarray, "n h w c"]:
        return decode_codes(z, class_codes[labels])

    return System(encode, decode)
