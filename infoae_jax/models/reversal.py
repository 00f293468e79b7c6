"""Gradient reversal (Ganin & Lempitsky 2015, the paper's `FlipGradientBuilder`)."""

import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "*shape"], lam: Float[Array, ""] | float) -> Float[Array, "*shape"]:
    """`x` itself; on the way back the gradient is multiplied by `-lam`.

    `lam` is an ordinary traced argument (with a gradient of zero), so another value needs no new compilation.
    """
    del lam
    return x


reverse_gradient.defvjp(lambda x, lam: (x, lam), lambda lam, gradient: ((-lam * gradient).astype(gradient.dtype), None))
