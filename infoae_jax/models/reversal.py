"""Gradient reversal (Ganin & Lempitsky 2015, the paper's `FlipGradientBuilder`)."""

from typing import TypeVar

import jax
from jaxtyping import Array, Float

T = TypeVar("T")


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "*shape"], lam: Float[Array, ""] | float) -> Float[Array, "*shape"]:
    """`x` itself; on the way back the gradient is multiplied by `-lam`.

    `lam` is an ordinary traced argument (with a gradient of zero), so another value needs no new compilation.
    """
    del lam
    return x


def _forward(x: T, lam: object) -> tuple[T, object]:
    return x, lam


def _backward(lam: Array | float, gradient: Array) -> tuple[Array, None]:
    return (-lam * gradient).astype(gradient.dtype), None


reverse_gradient.defvjp(_forward, _backward)
