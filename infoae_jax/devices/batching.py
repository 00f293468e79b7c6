"""Pure functions over any number of images: in batches of few sizes, shared by all devices."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.devices.compiling import compiler_options
from infoae_jax.devices.mesh import AXIS, is_cpu
from infoae_jax.types import Tree

_MAX_BATCH_PIXELS = 1024 * 32 * 32  # which bounds the memory of a batch at any image size
_PART_PIXELS, _MAX_PARTS = 64 * 32 * 32, 8  # a CPU device computes its share in parts that suit its caches
_JIT_CACHE_SIZE = 32


def batch_size(count: int, pixels: int, mesh: Mesh) -> int:
    """The size of the batches in which to compute `count` images of `pixels` each, where no gradient is needed.

    It is a power of two (or the next multiple of the number of devices), so that few sizes are ever compiled.
    """
    size = min(1 << (count - 1).bit_length(), _power_of_two_within(_MAX_BATCH_PIXELS // pixels))
    return -(-size // mesh.size) * mesh.size


def _power_of_two_within(limit: int) -> int:
    return 1 << (max(limit, 1).bit_length() - 1)


@functools.lru_cache(_JIT_CACHE_SIZE)
def _sharded(function: Callable[..., Any], mesh: Mesh, part: int) -> Callable[..., jax.Array]:
    """`function` jitted and shared by the devices, each of which computes about `part` rows at once (0: all it has)."""

    def in_parts(variables: Tree, rows: tuple[jax.Array, ...]) -> jax.Array:
        count = len(rows[0])
        size = max(part, -(-count // _MAX_PARTS)) if part else count
        # Unrolled, as XLA computes convolutions within loops slowly on the CPU.
        parts = [tuple(array[start : start + size] for array in rows) for start in range(0, count, size)]
        return jnp.concatenate([function(variables, *arrays) for arrays in parts])

    shared = jax.shard_map(in_parts, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)
    return jax.jit(shared, compiler_options=compiler_options("rare"))


@functools.lru_cache(_JIT_CACHE_SIZE)
def model_method(model: nn.Module, name: str) -> Callable[..., Any]:
    """`model.apply` of one of its methods; the same function for equal models, so that it is compiled once."""
    return functools.partial(model.apply, method=name)


def make_batched(function: Callable[..., Any], mesh: Mesh, pixels: int) -> Callable[..., np.ndarray]:
    """`function(variables, *arrays)` for arrays with any number of rows, at least one.

        encode = make_batched(model_method(model, "encode"), mesh, 28 * 28)
        z = encode(variables, images)

    Args:
      function: pure; each row of its result depends only on the same row of `arrays`.
      mesh: the devices that share each batch, along one axis.
      pixels: of an image, which determine the size of a batch.
    """
    whole, parts = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    sharded = _sharded(function, mesh, _power_of_two_within(_PART_PIXELS // pixels) if is_cpu() else 0)

    def run(variables: Tree, *arrays: np.ndarray) -> np.ndarray:
        size = batch_size(len(arrays[0]), pixels, mesh)
        variables = jax.device_put(variables, whole)
        results: list[np.ndarray | jax.Array] = []
        for start in range(0, len(arrays[0]), size):
            rows = [array[start : start + size] for array in arrays]
            padded = [np.pad(r, [(0, size - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows]
            results.append(sharded(variables, jax.device_put(tuple(padded), parts)))
            if len(results) > 1:  # so that the device is one batch ahead and holds no more than two
                results[-2] = np.asarray(results[-2])
        return np.concatenate(results)[: len(arrays[0])]

    return run
