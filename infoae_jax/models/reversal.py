"""Gradient reversal (Ganin & Lempitsky 2015, the paper's `FlipGradientBuilder`) and the schedules of its lambda."""

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "*shape"], lam: Float[Array, ""] | float) -> Float[Array, "*shape"]:
    """The identity forward; backward the gradient times `-lam`.

    `lam` is an ordinary traced argument (its own gradient is zero), so a ramp or a sweep does not compile again.
    """
    del lam
    return x


def _forward(x, lam):
    return x, lam


def _backward(lam, gradient):
    return (-lam * gradient).astype(gradient.dtype), None


reverse_gradient.defvjp(_forward, _backward)
