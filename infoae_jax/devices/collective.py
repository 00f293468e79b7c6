"""Sums over the devices that share a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SMALL = 20_000  # elements


def sum_over(tree: Any, axis: str) -> Any:
    """`jax.lax.psum` of a tree of arrays, those of float32 with fewer than `_SMALL` elements packed into one.

    For every array the devices wait for each other anew, which on the CPU takes longer than to copy a small one.
    """
    leaves, structure = jax.tree.flatten(tree)
    small = [i for i, leaf in enumerate(leaves) if leaf.size < _SMALL and leaf.dtype == jnp.float32]
    if not small:
        return jax.lax.psum(tree, axis)
    alone = [i for i in range(len(leaves)) if i not in small]
    packed = jnp.concatenate([leaves[i].reshape(-1) for i in small])
    packed, sums = jax.lax.psum((packed, [leaves[i] for i in alone]), axis)
    parts = jnp.split(packed, np.cumsum([leaves[i].size for i in small])[:-1])
    by_place = dict(zip(alone, sums, strict=True))
    by_place |= {i: part.reshape(leaves[i].shape) for i, part in zip(small, parts, strict=True)}
    return jax.tree.unflatten(structure, [by_place[i] for i in range(len(leaves))])


def mean_over(tree: Any, axis: str) -> Any:
    """`jax.lax.pmean` likewise."""
    return jax.tree.map(lambda x: x / jax.lax.axis_size(axis), sum_over(tree, axis))
