"""Sums and means over the devices that share a batch."""

import jax
import jax.numpy as jnp
import numpy as np

from infoae_jax.types import Tree

_MAX_PACKED_SIZE = 20_000  # elements


def sum_over(tree: Tree, axis: str) -> Tree:
    """`jax.lax.psum` of a tree of arrays, with the small ones of float32 packed into one.

    The devices wait for each other once for every array, which on the CPU takes longer than copying a small one.
    """
    leaves, structure = jax.tree.flatten(tree)
    small = [i for i, leaf in enumerate(leaves) if leaf.size < _MAX_PACKED_SIZE and leaf.dtype == jnp.float32]
    if not small:
        return jax.lax.psum(tree, axis)
    large = [i for i in range(len(leaves)) if i not in small]
    packed = jnp.concatenate([leaves[i].reshape(-1) for i in small])
    packed, sums = jax.lax.psum((packed, [leaves[i] for i in large]), axis)
    parts = jnp.split(packed, np.cumsum([leaves[i].size for i in small])[:-1])
    summed = dict(zip(large, sums, strict=True))
    summed |= {i: part.reshape(leaves[i].shape) for i, part in zip(small, parts, strict=True)}
    return jax.tree.unflatten(structure, [summed[i] for i in range(len(leaves))])


def mean_over(tree: Tree, axis: str) -> Tree:
    """`jax.lax.pmean` of a tree of arrays, by `sum_over`."""
    return jax.tree.map(lambda x: x / jax.lax.axis_size(axis), sum_over(tree, axis))
