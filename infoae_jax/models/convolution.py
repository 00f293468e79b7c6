"""Strided convolution and its transpose, fast in both directions.

XLA is fast for plain convolutions (strided or not) and for their filter gradients. Where a convolution dilates its
*input* it can be slow: on the CPU some transposed convolutions are, and on CPUs and GPUs the filter gradient of each of
them (jax-ml/jax#23783, #31662). Here every gradient is written, exactly, in a form that is fast. All in one dimension,
the others being alike; k taps, stride s, a zeros added in front:

    strided      y[i] = sum_t x[s i + t - a] w[t]                                                          (1)
    transposed   y[o] = sum_t x[i] w[t]    over the t, i with   s i = o + t - a                            (2)

The adjoints (the gradients with respect to x, for an incoming g):

    of (1)       dx[j] = sum_i g[i] w[j + a - s i]      is (2) on g with the flipped taps and a' = k - 1 - a
    of (2)       dx[i] = sum_t g[s i - t + a] w[t]      is (1) on g with the flipped taps and a' = k - 1 - a

(with u = k - 1 - t the index in the last line is s i + u - (k - 1 - a)). The filter gradient of (1) is what XLA does
well already; that of (2) is, by the last line, the filter gradient of the strided convolution that maps g to x. So no
gradient needs anything but (1), (2), and the filter gradient of (1).

Three ways to compute (2) itself. On the CPU each was the fastest for some of the layers of this network (one core, 64
images, jax 0.10.2): dilated for 3x3 taps (0.9 ms against 2.6 in phases), phases for 5x5 taps (3.6 against 4.5 dilated),
merged for 1 or 3 output channels (0.5 against 0.9 dilated and 1.5 in phases). On GPUs merged is taken (few launches,
nothing dilated), the fastest for 5x5 taps and within 4 % of dilated for 3x3: on an H100, 1024 images, jax 0.11.2, of
the time of flax's layer, whose bias ours did without, merged took 0.22 to 0.37 for 5x5 taps, phases 0.33 to 0.82,
dilated 0.57 to 0.96; for 3x3 taps merged 0.81 and 0.98, dilated 0.97 and 0.95 (`speed.py ways` in the benchmarks). For
TPUs the choice, dilated, was reasoned, not measured.

* dilated: put s - 1 zeros between the inputs and convolve.
* phases: write o = s q + p with the phase p in 0..s-1. In (2) only the taps t = t0, t0 + s, t0 + 2s, ... with
  t0 = (a - p) mod s meet an input, at i = q + (p + t - a) / s. So each phase is a stride-1 convolution of x with every
  s-th tap, and the s phases interleaved (depth to space) are y. No product with a zero.
* merged: all phases as output channels of one convolution, their taps laid out on a common grid and filled up with
  zeros. More products (36 for 25 where k = 5, s = 2), but one convolution with s * s times the channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
    """Equation (1) of the module: `lax.conv_general_dilated` on NHWC with gradients that are fast."""
    c, d = kernel.shape[2:]
    more_c, more_d = _more_channels(c, d)
    if not (more_c or more_d):
        return _plain(x, kernel, strides, padding)

    def with_more(x, kernel):
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more_c)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, more_c), (0, more_d)))
        return _plain(x, kernel, strides, padding)[..., :d]

    return lax.platform_dependent(x, kernel, cpu=with_more, default=lambda x, k: _plain(x, k, strides, padding))


def _more_channels(c: int, d: int) -> tuple[int, int]:
    """How many channels of zeros to add to the c inputs and d outputs on the CPU.

    XLA's speed there varies by factors with the number of channels where it is small: 3 inputs and 32 outputs take
    three times as long as 4 and 32, 1 and 16 six times as long as 1 and 24.
    """
    return (int(c == 3), max(24 - d, 0)) if c <= 4 else (0, 0)


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
    geometry = strides, before, out
    few_taps = kernel.shape[0] * kernel.shape[1] <= _FEW_TAPS
    few_channels = kernel.shape[3] <= _FEW_CHANNELS
    on_cpu = _dilated if few_taps else _merged if few_channels else _phases
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(on_cpu, *geometry),
        cuda=partial(_merged, *geometry),
        rocm=partial(_merged, *geometry),
        default=partial(_dilated, *geometry),
    )


_FEW_TAPS, _FEW_CHANNELS = 9, 4


def _dilated(strides, before, out, x, kernel):
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, before, out, strict=True)
    pads = [(a, m + k - 1 - (s * (n - 1) + 1) - a) for n, k, s, a, m in sizes]
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_LAYOUT)


def _phase_taps(k: int, s: int, a: int) -> list[list[tuple[int, int]]]:
    """For each phase p the pairs (i - q, t) of input and tap that meet in it."""
    return [[((p + t - a) // s, t) for t in range((a - p) % s, k, s)] for p in range(s)]


def _interleaved(y, out):
    """Depth to space, cut to size: `y` is n, q, phase, q, phase, d."""
    n, height, s, width, r, d = y.shape
    return y.reshape(n, height * s, width * r, d)[:, : out[0], : out[1]]


def _phases(strides, before, out, x, kernel):
    quotient = [-(-side // s) for side, s in zip(out, strides, strict=True)]
    taps = [_phase_taps(k, s, a) for k, s, a in zip(kernel.shape[:2], strides, before, strict=True)]

    def window(dim: int, met: list[tuple[int, int]]) -> tuple[slice, tuple[int, int]]:
        """The taps of a phase, and the padding that puts the first of them in place."""
        first, low = met[0][1], -met[0][0]
        return slice(first, None, strides[dim]), (low, quotient[dim] - 1 + len(met) - x.shape[1 + dim] - low)

    rows = []
    for met_i in taps[0]:
        row = []
        for met_j in taps[1]:
            if met_i and met_j:
                (ti, pad_i), (tj, pad_j) = window(0, met_i), window(1, met_j)
                row.append(_plain(x, kernel[ti, tj], (1, 1), (pad_i, pad_j)))
            else:  # a kernel shorter than the stride leaves phases that no tap reaches
                row.append(jnp.zeros((x.shape[0], *quotient, kernel.shape[3]), x.dtype))
        rows.append(jnp.stack(row, axis=3))
    return _interleaved(jnp.stack(rows, axis=2), out)


def _merged(strides, before, out, x, kernel):
    quotient = [-(-side // s) for side, s in zip(out, strides, strict=True)]
    pads, which = [], []
    for dim, (k, s, a) in enumerate(zip(kernel.shape[:2], strides, before, strict=True)):
        taps = _phase_taps(k, s, a)
        low, high = min(i for met in taps for i, _ in met), max(i for met in taps for i, _ in met)
        index = np.full((s, high - low + 1), k)  # tap k is one of zeros, added below
        for p, met in enumerate(taps):
            for i, t in met:
                index[p, i - low] = t
        which.append(index)
        pads.append((-low, quotient[dim] - 1 + high - (x.shape[1 + dim] - 1)))
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    merged = padded[which[0]][:, :, which[1]]  # phase, tap, phase, tap, c, d
    merged = merged.transpose(1, 3, 4, 0, 2, 5)
    shape = merged.shape
    y = _plain(x, merged.reshape(*shape[:3], -1), (1, 1), pads)
    return _interleaved(y.reshape(*y.shape[:3], *shape[3:]).transpose(0, 1, 3, 2, 4, 5), out)


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
    def whole(x, g):
        return jax.linear_transpose(lambda w: _plain(x, w, strides, padding), kernel)(g)[0]

    def in_blocks(x, g):
        size = max(_BLOCK, -(-len(x) // _MOST_BLOCKS))
        blocks = [slice(i, i + size) for i in range(0, max(len(x), 1), size)]
        return sum((whole(x[block], g[block]) for block in blocks[1:]), whole(x[blocks[0]], g[blocks[0]]))

    return lax.platform_dependent(x, g, cpu=in_blocks, default=whole)


# For a filter gradient XLA moves the batch to the innermost dimension, reading from as many places at once as there are
# images; of more than these the CPU's caches lose track where an image has a power of two of bytes (32x32: 55 % of the
# speed with 64 images, 82 % with 32). Not in more blocks than compile quickly.
_BLOCK, _MOST_BLOCKS = 32, 16


def _resolve(padding: str | Sequence[tuple[int, int]], sides, kernel, strides) -> Padding:
    """'SAME' and 'VALID' as `lax` defines them for a convolution."""
    pads = lax.padtype_to_pads(sides, kernel, strides, padding) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = pads
    return (int(top), int(bottom)), (int(left), int(right))  # older versions of `lax` give NumPy's integers


def _transposed_geometry(
    padding: str | Padding, sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """`before` and `out` of `transposed_conv` for a padding as `ConvTranspose` takes it."""
    before, out = [], []
    for dim, (n, k, s) in enumerate(zip(sides, kernel, strides, strict=True)):
        if not isinstance(padding, str):
            low, high = padding[dim]
        elif padding == "SAME":
            total = k + s - 2
            low = k - 1 if s > k - 1 else -(-total // 2)
            high = total - low
        else:
            low, high = k - 1, s - 1 + max(k - s, 0)
        before.append(low)
        out.append(s * (n - 1) + 1 + low + high - k + 1)
    return (before[0], before[1]), (out[0], out[1])


class Conv(nn.Module):
    """`flax.linen.Conv` in two dimensions: same parameters, same results, faster gradients.

    padding: 'SAME', 'VALID', or ((top, bottom), (left, right)). dtype: of the computation; None = that of the inputs.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = _resolve(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        y = strided_conv(x, kernel, self.strides, padding)
        return y + bias[None, None, None, :]


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` in two dimensions: same parameters, same results, faster.

    padding: 'SAME' (out = in * stride), 'VALID' (out = (in - 1) * stride + max(kernel, stride)), or the pairs that
    flax takes: zeros added around the dilated input.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str | Padding = "SAME"
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        before, out = _transposed_geometry(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        y = transposed_conv(x, kernel, self.strides, before, out)
        return y + bias[None, None, None, :]
