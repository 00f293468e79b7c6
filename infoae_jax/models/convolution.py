"""Strided convolution and its transpose, fast in both directions.

XLA is fast for plain convolutions, strided or not, and for their filter gradients. It can be slow where a convolution
dilates its *input*: on the CPU for some transposed convolutions, and on CPUs and GPUs for the filter gradient of each
of them (jax-ml/jax#23783, #31662). Here every gradient is written, exactly, in a form that is fast. In one dimension
(the others are alike), with k taps, stride s and a zeros added in front:

    strided      y[i] = sum_t x[s i + t - a] w[t]                                                          (1)
    transposed   y[o] = sum_t x[i] w[t]    over the t, i with   s i = o + t - a                            (2)

The adjoints (the gradients with respect to x, for an incoming g):

    of (1)       dx[j] = sum_i g[i] w[j + a - s i]      is (2) on g with the flipped taps and a' = k - 1 - a
    of (2)       dx[i] = sum_t g[s i - t + a] w[t]      is (1) on g with the flipped taps and a' = k - 1 - a

XLA computes the filter gradient of (1) well. That of (2) is, by the last line, the filter gradient of the strided
convolution that maps g to x. So every gradient needs only (1), (2), and the filter gradient of (1).

There are three ways to compute (2):

* dilated: put s - 1 zeros between the inputs and convolve.
* phases: write o = s q + p with the phase p in 0..s-1. In (2) only the taps t = t0, t0 + s, t0 + 2s, ... with
  t0 = (a - p) mod s meet an input, at i = q + (p + t - a) / s. So each phase is a stride-1 convolution of x with every
  s-th tap, and interleaving the s phases (depth to space) gives y. Nothing is multiplied by zero.
* merged: compute all phases as output channels of one convolution, their taps laid out on a common grid and filled up
  with zeros. More products (36 instead of 25 where k = 5, s = 2), but one convolution with s * s times the channels.

`benchmarks/speed.py ways` measures them. On the CPU each is the fastest for some layers of this network (jax 0.10.2,
one core, 64 images): dilated for 3x3 taps (0.9 ms against 2.6 in phases), phases for 5x5 taps (3.6 against 4.5
dilated), merged for 1 or 3 output channels (0.5 against 0.9 dilated and 1.5 in phases). GPUs get merged: on an H100
(jax 0.11.2) it takes 0.22 to 0.37 of the time of flax's layer for 5x5 taps, and at most 4 % more than dilated for 3x3.
TPUs get dilated, untested.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

Pair: TypeAlias = tuple[int, ...]  # one number for each of the two dimensions
Padding: TypeAlias = tuple[tuple[int, int], ...]  # ((top, bottom), (left, right))
_plain = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
_MAX_DILATED_TAPS, _MAX_MERGED_CHANNELS = 9, 4  # up to which the CPU prefers these ways of transposing
# For a filter gradient XLA reads from all images of a batch at once. With more than these the CPU's caches lose track
# where the bytes of an image are a power of two (32x32: 55 % of the speed with 64 images). More blocks compile slowly.
_BLOCK_IMAGES, _MAX_BLOCKS = 32, 16


def _flipped(kernel: Array) -> Array:
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def _saving_inputs(function: Callable[..., Array]) -> Callable[..., tuple[Array, tuple[Array, Array]]]:
    return lambda x, kernel, *geometry: (function(x, kernel, *geometry), (x, kernel))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def strided_conv(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c d"], strides: Pair, padding: Padding
) -> Float[Array, "n h2 w2 d"]:
    """Equation (1) of the module: `lax.conv_general_dilated` on NHWC with fast gradients."""
    c, d = kernel.shape[2:]
    # With few channels the CPU's speed varies by factors with their number: 3 inputs and 32 outputs take three times as
    # long as 4 and 32, 1 and 16 six times as long as 1 and 24. There channels of zeros are added.
    zeros_c, zeros_d = (int(c == 3), max(24 - d, 0)) if c <= 4 else (0, 0)
    if not (zeros_c or zeros_d):
        return _plain(x, kernel, strides, padding)

    def with_zeros(x: Array, kernel: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, zeros_c)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, zeros_c), (0, zeros_d)))
        return _plain(x, kernel, strides, padding)[..., :d]

    return lax.platform_dependent(x, kernel, cpu=with_zeros, default=lambda x, k: _plain(x, k, strides, padding))


def _strided_backward(strides: Pair, padding: Padding, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    before = tuple(k - 1 - low for k, (low, _) in zip(kernel.shape[:2], padding, strict=True))
    dx = transposed_conv(g, _flipped(kernel), strides, before, x.shape[1:3])
    return dx, _filter_gradient(x, g, kernel, strides, padding)


strided_conv.defvjp(_saving_inputs(strided_conv), _strided_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def transposed_conv(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c d"], strides: Pair, before: Pair, out: Pair
) -> Float[Array, "n h2 w2 d"]:
    """Equation (2) of the module; `before` is a, and `out` the height and width of the result."""
    dilated, phases, merged = (partial(way, strides, before, out) for way in (_dilated, _phases, _merged))
    few_taps = kernel.shape[0] * kernel.shape[1] <= _MAX_DILATED_TAPS
    few_channels = kernel.shape[3] <= _MAX_MERGED_CHANNELS
    on_cpu = dilated if few_taps else merged if few_channels else phases
    return lax.platform_dependent(x, kernel, cpu=on_cpu, cuda=merged, rocm=merged, default=dilated)


def _dilated(strides: Pair, before: Pair, out: Pair, x: Array, kernel: Array) -> Array:
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, before, out, strict=True)
    pads = [(a, m + k - 1 - (s * (n - 1) + 1) - a) for n, k, s, a, m in sizes]
    return _plain(x, kernel, (1, 1), pads, lhs_dilation=strides)


def _phase_taps(k: int, s: int, a: int) -> list[list[tuple[int, int]]]:
    """For each phase p the pairs (i - q, t) of input and tap that meet in it."""
    return [[((p + t - a) // s, t) for t in range((a - p) % s, k, s)] for p in range(s)]


def _interleaved(y: Float[Array, "n h s w r d"], out: Pair) -> Float[Array, "n h2 w2 d"]:
    n, height, s, width, r, d = y.shape
    return y.reshape(n, height * s, width * r, d)[:, : out[0], : out[1]]


def _phases(strides: Pair, before: Pair, out: Pair, x: Array, kernel: Array) -> Array:
    quotient = [-(-side // s) for side, s in zip(out, strides, strict=True)]
    taps = [_phase_taps(k, s, a) for k, s, a in zip(kernel.shape[:2], strides, before, strict=True)]

    def window(dim: int, met: list[tuple[int, int]]) -> tuple[slice, tuple[int, int]]:
        first, low = met[0][1], -met[0][0]
        return slice(first, None, strides[dim]), (low, quotient[dim] - 1 + len(met) - x.shape[1 + dim] - low)

    def phase(met_i: list[tuple[int, int]], met_j: list[tuple[int, int]]) -> Array:
        if not (met_i and met_j):  # a kernel shorter than the stride leaves phases that no tap reaches
            return jnp.zeros((x.shape[0], *quotient, kernel.shape[3]), x.dtype)
        (taps_i, pad_i), (taps_j, pad_j) = window(0, met_i), window(1, met_j)
        return _plain(x, kernel[taps_i, taps_j], (1, 1), (pad_i, pad_j))

    rows = [jnp.stack([phase(met_i, met_j) for met_j in taps[1]], axis=3) for met_i in taps[0]]
    return _interleaved(jnp.stack(rows, axis=2), out)


def _merged(strides: Pair, before: Pair, out: Pair, x: Array, kernel: Array) -> Array:
    pads, grids = [], []
    for k, s, a, n, m in zip(kernel.shape[:2], strides, before, x.shape[1:3], out, strict=True):
        taps = _phase_taps(k, s, a)
        low, high = min(i for met in taps for i, _ in met), max(i for met in taps for i, _ in met)
        grid = np.full((s, high - low + 1), k)  # tap k is one of zeros, added below
        for p, met in enumerate(taps):
            for i, t in met:
                grid[p, i - low] = t
        grids.append(grid)
        pads.append((-low, -(-m // s) + high - n))
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    merged = padded[grids[0]][:, :, grids[1]].transpose(1, 3, 4, 0, 2, 5)  # tap, tap, c, phase, phase, d
    y = _plain(x, merged.reshape(*merged.shape[:3], -1), (1, 1), tuple(pads))
    return _interleaved(y.reshape(*y.shape[:3], *merged.shape[3:]).transpose(0, 1, 3, 2, 4, 5), out)


def _transposed_backward(
    strides: Pair, before: Pair, out: Pair, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = _flipped(kernel)
    sizes = zip(kernel.shape[:2], before, out, x.shape[1:3], strides, strict=True)
    padding = tuple((k - 1 - a, s * (m - 1) + 1 + a - n) for k, a, n, m, s in sizes)  # maps `out` to exactly x's sides
    return strided_conv(g, flipped, strides, padding), _flipped(_filter_gradient(g, x, flipped, strides, padding))


transposed_conv.defvjp(_saving_inputs(transposed_conv), _transposed_backward)


def _filter_gradient(x: Array, g: Array, kernel: Array, strides: Pair, padding: Padding) -> Array:
    def plain(x: Array, g: Array) -> Array:
        return jax.linear_transpose(lambda w: _plain(x, w, strides, padding), kernel)(g)[0]

    batched = jax.custom_batching.custom_vmap(plain)

    @batched.def_vmap
    def of_group(runs: int, is_batched: list[bool], x: Array, g: Array) -> tuple[Array, bool]:
        """That of a convolution with a group for each run: by itself XLA takes one with a kernel as large as g."""
        both = zip((x, g), is_batched, strict=True)
        stacked = [a if there else jnp.broadcast_to(a, (runs, *a.shape)) for a, there in both]
        x, g = (jnp.moveaxis(a, 0, 3).reshape(*a.shape[1:4], -1) for a in stacked)
        *taps, c, d = kernel.shape
        convolve = partial(_plain, x, window_strides=strides, padding=padding, feature_group_count=runs)
        (w,) = jax.linear_transpose(lambda w: convolve(w), jnp.zeros((*taps, c, runs * d), kernel.dtype))(g)
        return jnp.moveaxis(w.reshape(*taps, c, runs, d), 3, 0), True

    whole = jax.custom_vjp(batched)  # as JAX differentiates no function with a rule for vmap
    whole.defvjp(lambda x, g: (batched(x, g), (x, g)), lambda saved, w: jax.vjp(plain, *saved)[1](w))

    def in_blocks(x: Array, g: Array) -> Array:
        size = max(_BLOCK_IMAGES, -(-len(x) // _MAX_BLOCKS))
        blocks = [slice(i, i + size) for i in range(0, max(len(x), 1), size)]
        return sum((whole(x[block], g[block]) for block in blocks[1:]), whole(x[blocks[0]], g[blocks[0]]))

    return lax.platform_dependent(x, g, cpu=in_blocks, default=whole)


def _transposed_geometry(padding: str | Padding, sides: Pair, kernel: Pair, strides: Pair) -> tuple[Pair, Pair]:
    def pads(k: int, s: int) -> tuple[int, int]:
        if padding == "VALID":
            return k - 1, s - 1 + max(k - s, 0)
        low = min(k - 1, (k + s - 1) // 2)
        return low, k + s - 2 - low

    pairs = tuple(map(pads, kernel, strides)) if isinstance(padding, str) else padding
    sizes = zip(sides, kernel, strides, pairs, strict=True)
    return tuple(low for low, _ in pairs), tuple(s * (n - 1) + low + high - k + 2 for n, k, s, (low, high) in sizes)


class Conv(nn.Module):
    """`flax.linen.Conv` in two dimensions: same parameters, same results, faster gradients."""

    features: int
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Literal["SAME", "VALID"] | Padding = "SAME"
    dtype: str | None = None  # of the computation; None: that of the inputs

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return self._convolve(x, kernel) + bias[None, None, None, :]

    def _convolve(self, x: Array, kernel: Array) -> Array:
        padding = self.padding
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(x.shape[1:3], self.kernel_size, self.strides, padding)
            padding = tuple((int(low), int(high)) for low, high in pads)  # some versions give NumPy's integers
        return strided_conv(x, kernel, self.strides, padding)


class ConvTranspose(Conv):
    """`flax.linen.ConvTranspose` in two dimensions: same parameters, same results, faster."""

    def _convolve(self, x: Array, kernel: Array) -> Array:
        before, out = _transposed_geometry(self.padding, x.shape[1:3], self.kernel_size, self.strides)
        return transposed_conv(x, kernel, self.strides, before, out)
