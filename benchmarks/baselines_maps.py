"""Maps of latents that are fitted in closed form after a training, to take the class out of them.

A map's `forward` gives the code that probes see; `back` makes of it what the decoder was trained on, given the class
that is wanted.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

Latents: TypeAlias = Float[np.ndarray, "n z"]
Labels: TypeAlias = Int[np.ndarray, " n"]
_MAX_ITERATIONS, _TOLERANCE = 1000, 1e-10


class Map(NamedTuple):
    """The two directions, each of latents and classes: those read from the images, and those wanted."""

    forward: Callable[[Latents, Labels], Latents]
    back: Callable[[Latents, Labels], Latents]


FitMap: TypeAlias = Callable[[Latents, Labels], Map]


def erase_linearly(z: Latents, labels: Labels) -> Map:
    """LEACE (Belrose et al. 2023): the smallest change after which no linear function tells the classes apart.

    It removes k - 1 directions for k classes. What is lost there is put back as the mean of the class that is wanted,
    the best guess; the code itself never sees the class.
    """
    x, mean = z.astype(np.float64), z.mean(0, dtype=np.float64)
    means = _class_means(x, labels)
    root, inverse_root = _roots(np.cov(x.T))
    # The classes' means span what the covariance of latents and one-hot labels spans.
    directions, sizes, _ = np.linalg.svd(inverse_root @ (means - mean).T, full_matrices=False)
    directions = directions[:, sizes > 1e-9 * sizes.max()]
    erase = root @ directions @ directions.T @ inverse_root
    return Map(
        lambda z, _: (z - (z - mean) @ erase.T).astype(np.float32),
        lambda z, wanted: (z + (means - mean)[wanted]).astype(np.float32),
    )


def transport_to_barycentre(z: Latents, labels: Labels) -> Map:
    """Each class, taken for a normal distribution, goes to the Wasserstein barycentre of all by its optimal transport.

    The barycentre's covariance is the fixed point of Alvarez-Esteban et al. 2016; the maps are affine.
    """
    x, shares = z.astype(np.float64), np.bincount(labels) / len(labels)
    means = _class_means(x, labels)
    covariances = [np.cov(x[labels == c].T) for c in range(len(shares))]
    centre = np.cov(x.T)
    for _ in range(_MAX_ITERATIONS):
        root, inverse_root = _roots(centre)
        middle = sum(p * _roots(root @ c @ root)[0] for p, c in zip(shares, covariances, strict=True))
        before, centre = centre, inverse_root @ middle @ middle @ inverse_root
        if np.abs(centre - before).max() < _TOLERANCE * np.abs(centre).max():
            break
    forward = []
    for covariance in covariances:
        root, inverse_root = _roots(covariance)
        forward.append(inverse_root @ _roots(root @ centre @ root)[0] @ inverse_root)
    there, back, mean = np.stack(forward), np.linalg.inv(np.stack(forward)), shares @ means

    def apply(maps: np.ndarray, z: np.ndarray, classes: Labels) -> np.ndarray:
        return np.einsum("nij,nj->ni", maps[classes], z)

    return Map(
        lambda z, read: (mean + apply(there, z - means[read], read)).astype(np.float32),
        lambda z, wanted: (means[wanted] + apply(back, z - mean, wanted)).astype(np.float32),
    )


def _class_means(x: np.ndarray, labels: Labels) -> Float[np.ndarray, "k z"]:
    return np.stack([x[labels == c].mean(0) for c in range(labels.max() + 1)])


def _roots(matrix: Float[np.ndarray, "z z"]) -> tuple[Float[np.ndarray, "z z"], Float[np.ndarray, "z z"]]:
    """The square root of a positive definite matrix, and its inverse."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.maximum(values, 1e-12))
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T
