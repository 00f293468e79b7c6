"""`speed.py layers` and `ways`: convolutions against flax's."""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.timing import median_ms
from infoae_jax.models import convolution
from infoae_jax.types import Json, Tree, Variables

LAYERS = [
    # name, side of the input, channels in and out, side of the kernel, padding; MNIST's layers, then SVHN's
    *(("Conv", 28, 1, 32, 5, "SAME"), ("Conv", 14, 32, 64, 5, "SAME"), ("Conv", 7, 64, 128, 3, "VALID")),
    *(("ConvTranspose", 3, 128, 64, 3, "VALID"), ("ConvTranspose", 7, 64, 32, 5, "SAME")),
    *(("ConvTranspose", 14, 32, 1, 5, "SAME"), ("Conv", 32, 3, 32, 5, "SAME"), ("Conv", 16, 32, 64, 5, "SAME")),
    *(("Conv", 8, 64, 128, 3, "SAME"), ("ConvTranspose", 4, 128, 64, 3, "SAME")),
    *(("ConvTranspose", 8, 64, 32, 5, "SAME"), ("ConvTranspose", 16, 32, 3, 5, "SAME")),
]


def layers(args: argparse.Namespace) -> Iterator[Json]:
    """Times each convolution of the network against flax's on one core with 64 images.

    Also gives the share of the core's peak, which is the speed of a product of 1024 x 1024 matrices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    square = jnp.ones((1024, 1024))
    peak = 2 * 1024**3 / median_ms(functools.partial(jax.jit(jnp.matmul), square, square), args.repeats)
    key = jax.random.key(0)
    for name, side, c, d, k, padding in LAYERS:
        layer = [getattr(module, name)(d, (k, k), (2, 2), padding) for module in (convolution, nn)]
        x = jax.random.normal(key, (64, side, side, c))
        variables = layer[0].init(key, x)
        y = layer[0].apply(variables, x)
        g = jax.random.normal(key, y.shape)
        positions = (y if name == "Conv" else x).shape[1] ** 2
        for what in ("forward", "input gradient", "kernel gradient"):
            times = []
            for which in layer:

                def run(variables, x, g, which=which, what=what):
                    if what == "forward":
                        return which.apply(variables, x)
                    _y, pull = jax.vjp(which.apply, variables, x)
                    return pull(g)[what == "input gradient"]

                times.append(median_ms(functools.partial(jax.jit(run), variables, x, g), args.repeats))
            yield {
                "layer": f"{name} {side}x{side}, {c} to {d}, {k}x{k}",
                "what": what,
                "ratio": times[0] / times[1],
                "ours_ms": times[0],
                "flax_ms": times[1],
                "share_of_peak": 2 * 64 * positions * k * k * c * d / times[0] / peak,
            }


def ways(args: argparse.Namespace) -> Iterator[Json]:
    """Times each convolution of the network on this device with 1024 images, as a share of flax's time.

    'all' is forward and both gradients. For transposed convolutions 'forward' compares the ways in which the module
    `convolution` can compute them, without the bias that flax adds. On a GPU the smallest layers take as long as it
    takes to launch them.
    """
    for name, side, c, d, k, padding in LAYERS:
        ours, flax = (getattr(module, name)(d, (k, k), (2, 2), padding) for module in (convolution, nn))
        x = jax.random.normal(jax.random.key(0), (1024, side, side, c))
        variables = ours.init(jax.random.key(1), x)
        before, out = convolution._transposed_geometry(padding, (side, side), (k, k), (2, 2))
        found: dict[str, dict[str, Callable[..., Tree]]] = {"all": {}}
        for which, layer in (("flax", flax), ("ours", ours)):
            found["all"][which] = jax.value_and_grad(functools.partial(_sum_of_squares, layer), argnums=(0, 1))
        if name == "ConvTranspose":
            found["forward"] = {"flax": flax.apply}
            for way in (convolution._merged, convolution._phases, convolution._dilated):
                compute = functools.partial(way, (2, 2), before, out)
                found["forward"][way.__name__[1:]] = lambda v, x, f=compute: f(x, v["params"]["kernel"])
        for what, functions in found.items():
            times = _queued_ms({which: jax.jit(f) for which, f in functions.items()}, (variables, x), args)
            yield {
                "layer": f"{name} {side}x{side}, {c} to {d}, {k}x{k}",
                "what": what,
                "device": jax.local_devices()[0].device_kind,
                "flax_ms": times["flax"],
                "ratios": {which: ms / times["flax"] for which, ms in times.items() if which != "flax"},
            }


def _sum_of_squares(layer: nn.Module, variables: Variables, x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.asarray(layer.apply(variables, x)) ** 2)


def _queued_ms(
    functions: dict[str, Callable[..., Tree]], arguments: Sequence[Tree], args: argparse.Namespace
) -> dict[str, float]:
    """Median milliseconds of a call in a queue of calls, over rounds in which all functions take turns."""
    times: dict[str, list[float]] = {which: [] for which in functions}
    for i in range(args.rounds + 1):
        for which, function in functions.items():
            begin = time.perf_counter()
            for _ in range(args.repeats):
                last = function(*arguments)
            jax.block_until_ready(last)
            if i:  # the first one compiles
                times[which].append(1e3 * (time.perf_counter() - begin) / args.repeats)
    return {which: statistics.median(found) for which, found in times.items()}
