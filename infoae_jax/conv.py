"""Strided convolution and its transpose, fast in both directions on the CPU.

XLA's CPU back end is fast for plain convolutions (strided or not) and for their filter gradients, but takes a slow
path where the *input* is dilated: the forward pass of a transposed convolution, and the input gradient of a strided
one (jax-ml/jax#23783, #31662). Both are rewritten here, exactly, as stride-1 convolutions. All in one dimension, the
others being alike; k taps, stride s, a zeros added in front:

    strided      y[i] = sum_t x[s i + t - a] w[t]                                                          (1)
    transposed   y[o] = sum_t x[i] w[t]    over the t, i with   s i = o + t - a                            (2)

Write o = s q + p with the phase p in 0..s-1. In (2) only the taps t = t0, t0 + s, t0 + 2s, ... with
t0 = (a - p) mod s meet an input, at i = q + (p + t - a) / s. So each phase is a stride-1 convolution of x with every
s-th tap, and the s phases interleaved (depth to space) are y. No tap is multiplied with a structural zero.

The adjoints (the gradients with respect to x, for an incoming g):

    of (1)       dx[j] = sum_i g[i] w[j + a - s i]      is (2) on g with the flipped taps and a' = k - 1 - a
    of (2)       dx[i] = sum_t g[s i - t + a] w[t]      is (1) on g with the flipped taps and a' = k - 1 - a

(with u = k - 1 - t the index in the last line is s i + u - (k - 1 - a)). The filter gradient of (1) is what XLA does
well already; that of (2) is, by the last line, the filter gradient of the strided convolution that maps g to x.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


def _flipped(kernel):
    """The taps in reverse order, input and output channels exchanged."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _adjoint_padding(kernel, before, source, target, strides) -> Padding:
    """Padding with which the adjoint maps `source` sides back to exactly `target` sides, by the strided formula."""
    pads = []
    for k, a, n, m, s in zip(kernel.shape[:2], before, source, target, strides, strict=True):
        low = k - 1 - a
        pads.append((low, s * (m - 1) + k - n - low))
    return (pads[0], pads[1])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def strided_conv(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c d"], strides: tuple[int, int], padding: Padding
) -> Float[Array, "n h2 w2 d"]:
    """Equation (1) of the module: `lax.conv_general_dilated` on NHWC with gradients that are fast on the CPU."""
    return _plain(x, kernel, strides, padding)


def _strided_forward(x, kernel, strides, padding):
    return strided_conv(x, kernel, strides, padding), (x, kernel)


def _strided_backward(strides, padding, saved, g):
    x, kernel = saved
    before = [k - 1 - low for k, (low, _) in zip(kernel.shape[:2], padding, strict=True)]
    dx = transposed_conv(g, _flipped(kernel), strides, (before[0], before[1]), (x.shape[1], x.shape[2]))
    return dx, _filter_gradient(x, g, kernel, strides, padding)


strided_conv.defvjp(_strided_forward, _strided_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def transposed_conv(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c d"],
    strides: tuple[int, int],
    before: tuple[int, int],
    out: tuple[int, int],
) -> Float[Array, "n h2 w2 d"]:
    """Equation (2) of the module; `before` is a, and `out` the height and width of the result."""
    quotient = [-(-side // s) for side, s in zip(out, strides, strict=True)]

    def taps(dim: int, phase: int) -> tuple[slice, tuple[int, int]]:
        """Which taps meet an input in this phase, and the padding that puts the first of them in place."""
        s, a, k, n = strides[dim], before[dim], kernel.shape[dim], x.shape[1 + dim]
        first = (a - phase) % s
        count = len(range(first, k, s))
        low = -((phase + first - a) // s)
        return slice(first, None, s), (low, quotient[dim] - 1 + count - n - low)

    rows = []
    for p in range(strides[0]):
        row = []
        for r in range(strides[1]):
            (ti, pad_i), (tj, pad_j) = taps(0, p), taps(1, r)
            part = kernel[ti, tj]
            if part.shape[0] and part.shape[1]:
                row.append(_plain(x, part, (1, 1), (pad_i, pad_j)))
            else:  # a kernel shorter than the stride leaves phases that no tap reaches
                row.append(jnp.zeros((x.shape[0], quotient[0], quotient[1], kernel.shape[3]), x.dtype))
        rows.append(jnp.stack(row, axis=3))
    y = jnp.stack(rows, axis=2)  # n, q, phase, q, phase, d
    y = y.reshape(x.shape[0], quotient[0] * strides[0], quotient[1] * strides[1], kernel.shape[3])
    return y[:, : out[0], : out[1]]


def _transposed_forward(x, kernel, strides, before, out):
    return transposed_conv(x, kernel, strides, before, out), (x, kernel)


def _transposed_backward(strides, before, out, saved, g):
    x, kernel = saved
    flipped = _flipped(kernel)
    padding = _adjoint_padding(kernel, before, out, x.shape[1:3], strides)
    dx = strided_conv(g, flipped, strides, padding)
    return dx, _flipped(_filter_gradient(g, x, flipped, strides, padding))


transposed_conv.defvjp(_transposed_forward, _transposed_backward)


def _filter_gradient(x, g, kernel, strides, padding):
    return jax.linear_transpose(lambda w: _plain(x, w, strides, padding), kernel)(g)[0]


def _resolve(padding: str | Sequence[tuple[int, int]], sides, kernel, strides) -> Padding:
    """'SAME' and 'VALID' as `lax` defines them for a convolution."""
    pads = lax.padtype_to_pads(sides, kernel, strides, padding) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = pads
    return (int(top), int(bottom)), (int(left), int(right))  # older versions of `lax` give NumPy's integers


class Conv(nn.Module):
    """`flax.linen.Conv` in two dimensions: same parameters, same results, faster gradients on the CPU.

    padding: 'SAME', 'VALID', or ((top, bottom), (left, right)).
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=None)
        padding = _resolve(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        y = strided_conv(x, kernel, self.strides, padding)
        return y + bias[None, None, None, :]


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` in two dimensions: same parameters, same results, faster on the CPU.

    padding: 'SAME' (out = in * stride), 'VALID' (out = (in - 1) * stride + max(kernel, stride)), or the pairs that
    flax takes: zeros added around the dilated input.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=None)
        before, out = [], []
        for dim, (n, k, s) in enumerate(zip(x.shape[1:3], self.kernel_size, self.strides, strict=True)):
            if not isinstance(self.padding, str):
                low, high = self.padding[dim]
            elif self.padding == "SAME":
                total = k + s - 2
                low = k - 1 if s > k - 1 else -(-total // 2)
                high = total - low
            else:
                low, high = k - 1, s - 1 + max(k - s, 0)
            before.append(low)
            out.append(s * (n - 1) + 1 + low + high - k + 1)
        y = transposed_conv(x, kernel, self.strides, (before[0], before[1]), (out[0], out[1]))
        return y + bias[None, None, None, :]
