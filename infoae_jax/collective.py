"""Sums over the devices that share a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SMALL = 20_000  # elements


def sum_over(tree: Any, axis: str) -> Any:
    """`jax.lax.psum` of a tree of float32 arrays, those with fewer than `_SMALL` elements packed into one.

    For every array the devices wait for each other anew, which on the CPU takes longer than to copy a small one.
    """
    leaves, structure = jax.tree.flatten(tree)
    small = [i for i, leaf in enumerate(leaves) if leaf.size < _SMALL]
    large = [i for i, leaf in enumerate(leaves) if leaf.size >= _SMALL]
    packed = jnp.concatenate([jnp.zeros(0), *(leaves[i].reshape(-1) for i in small)])
    packed, sums = jax.lax.psum((packed, [leaves[i] for i in large]), axis)
    parts = jnp.split(packed, np.cumsum([leaves[i].size for i in small])[:-1]) if small else []
    by_place = dict(zip(large, sums, strict=True))
    by_place |= {i: part.reshape(leaves[i].shape) for i, part in zip(small, parts, strict=True)}
    return jax.tree.unflatten(structure, [by_place[i] for i in range(len(leaves))])


def mean_over(tree: Any, axis: str) -> Any:
    """`jax.lax.pmean` likewise."""
    return jax.tree.map(lambda x: x / jax.lax.axis_size(axis), sum_over(tree, axis))
