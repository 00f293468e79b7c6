"""Initial values of networks, drawn by NumPy: as a program, the draws would take longer to compile than a step."""

import functools
import zlib

import jax
import numpy as np

from infoae_jax.types import Variables

# Variance of a kernel times its number of inputs, by the name of its layer: He et al. 2015, for layers before a ReLU,
# but for these.
GAINS = {"out": 1.0, "change": 0.0}  # linear outputs (LeCun et al. 1998); the change that a coupling makes: none
RELU_GAIN = 2.0


def draw(shapes: Variables, seed: int) -> Variables:
    """Initial values of variables with these names and shapes, as a module's `init` has them.

    Kernels are normal, with a standard deviation of sqrt(gain / inputs). Biases and means are 0; deviations are 1;
    matrices are the identity; rotations are random, but each stack of them gives the identity if all follow each other.
    Each array follows from the seed and its own name, so no network depends on another.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _value(seed, [k.key for k in path], leaf.shape), shapes)


def _value(seed: int, names: list[str], shape: tuple[int, ...]) -> np.ndarray:
    name, rng = names[-1], np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
    if name == "kernel":
        inputs = np.prod(shape[1:-1] if "layers" in names else shape[:-1])  # layers are stacked
        deviation = np.sqrt(GAINS.get(names[-2], RELU_GAIN) / inputs)
        return (deviation * rng.standard_normal(shape)).astype(np.float32)
    if name == "rotations":
        return _rotations(rng, *shape[:2])
    if name in ("matrix", "inverse_matrix"):
        return np.broadcast_to(np.eye(shape[-1], dtype=np.float32), shape).copy()
    if name == "pixel_deviation":
        return np.ones(shape, np.float32)
    assert name in ("bias", "mean", "pixel_mean"), f"no initial value for {names}"
    return np.zeros(shape, np.float32)


def _rotations(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """`count` orthogonal matrices with the identity as their product; all but the last are uniformly distributed."""
    q, r = np.linalg.qr(rng.standard_normal((count - 1, size, size)))
    free = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]  # the sign makes them uniform (Mezzadri 2007)
    return np.concatenate([free, functools.reduce(np.matmul, free).T[None]]).astype(np.float32)
