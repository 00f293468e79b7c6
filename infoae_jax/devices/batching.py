"""Pure functions over any number of images: in batches of few sizes, shared by all devices."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from infoae_jax.devices.compiling import compiler_options
from infoae_jax.devices.computing import computing
from infoae_jax.devices.mesh import AXIS
from infoae_jax.types import Tree

_MAX_BATCH_PIXELS = 1024 * 32 * 32  # which bounds the memory of a batch at any image size
_JIT_CACHE_SIZE = 32


def batch_size(count: int, pixels: int, mesh: Mesh) -> int:
    """The size of the batches in which to compute `count` images of `pixels` each, where no gradient is needed.

    It is a power of two (or the next multiple of the number of devices), so that few sizes are ever compiled.
    """
    most = max(_MAX_BATCH_PIXELS // pixels, 1)
    size = min(1 << (count - 1).bit_length(), 1 << (most.bit_length() - 1))
    return -(-size // mesh.size) * mesh.size


@functools.lru_cache(_JIT_CACHE_SIZE)
def _sharded(function: Callable[..., Any], mesh: Mesh) -> Callable[..., jax.Array]:
    """`function(variables, rows)` jitted, the rows shared by the devices."""
    shared = jax.shard_map(
        lambda variables, rows: function(variables, *rows),
        mesh=mesh,
        in_specs=(P(), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )
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
    sharded = _sharded(function, mesh)

    @computing
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
