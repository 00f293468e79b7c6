"""A pure function over any number of images: in batches of few sizes, shared by all devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.devices.mesh import AXIS
from infoae_jax.models.autoencoder import InfoAutoencoder

_MOST_PIXELS = 1024 * 32 * 32  # of a batch, which bounds its memory at any image size
_PART_PIXELS, _MOST_PARTS = 64 * 32 * 32, 8  # a CPU device computes its share in parts that suit its caches


def batch_size(count: int, pixels: int, mesh: Mesh) -> int:
    """In batches of how many images to compute `count` of them, where no gradient is needed.

    A power of two (or the next multiple of the number of devices), so that few sizes are ever compiled.
    """
    size = min(1 << (count - 1).bit_length(), 1 << (max(_MOST_PIXELS // pixels, 1).bit_length() - 1))
    return -(-size // mesh.size) * mesh.size


@functools.lru_cache(32)
def _shared(function: Callable[..., Any], mesh: Mesh, part: int) -> Callable[..., jax.Array]:
    """Jitted; the same for the same function, so that it is compiled once.

    Args:
      part: about how many rows a device computes at once; 0: all it has. Parts are unrolled, as XLA computes
        convolutions within loops slowly on the CPU; on MNIST and SVHN `decode` takes 10 % less time so.
    """

    def in_parts(variables: Any, rows: tuple[jax.Array, ...]) -> jax.Array:
        count = len(rows[0])
        size = max(part, -(-count // _MOST_PARTS)) if part else count
        parts = [tuple(array[start : start + size] for array in rows) for start in range(0, count, size)]
        return jnp.concatenate([function(variables, *some) for some in parts])

    specs = P(), P(AXIS)
    return jax.jit(jax.shard_map(in_parts, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False))


@functools.lru_cache(32)
def model_method(model: InfoAutoencoder, name: str) -> Callable[..., Any]:
    """`model.apply` of one of its methods; the same function for equal models."""
    return functools.partial(model.apply, method=name)


def make_batched(function: Callable[..., Any], mesh: Mesh, pixels: int) -> Callable[..., np.ndarray]:
    """`function(variables, *arrays)` for arrays with any number of rows, at least one.

        encode = make_batched(method(model, "encode"), mesh, 28 * 28)
        z = encode(variables, images)

    Args:
      function: pure; rows of its result depend on the same rows of `arrays` only.
      mesh: the devices that share each batch, along one axis.
      pixels: of an image, which decides the size of a batch.
    """
    whole, parts = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    part = 1 << (max(_PART_PIXELS // pixels, 1).bit_length() - 1)  # a power of two, as shares mostly are
    shared = _shared(function, mesh, part if on_cpu else 0)

    def run(variables: Any, *arrays: np.ndarray) -> np.ndarray:
        size = batch_size(len(arrays[0]), pixels, mesh)
        variables = jax.device_put(variables, whole)
        results: list[Any] = []
        for start in range(0, len(arrays[0]), size):
            rows = [array[start : start + size] for array in arrays]
            padded = [np.pad(r, [(0, size - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows]
            results.append(shared(variables, jax.device_put(tuple(padded), parts)))
            if len(results) > 1:  # one ahead, as in training; the device keeps no more than two
                results[-2] = np.asarray(results[-2])
        return np.concatenate(results)[: len(arrays[0])]

    return run
