"""Gradient reversal (Ganin & Lempitsky 2015, the paper's `FlipGradientBuilder`) and the schedules of its lambda."""

import jax
import jax.numpy as jnp
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


def scheduled_lambda(
    schedule: str,
    lam: Float[Array, ""] | float,
    ramp: Float[Array, ""] | float,
    progress: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Lambda at a point of the training.

    Args:
      schedule: 'constant', or 'linear' (0 to `lam` over the ramp).
      lam: the final value.
      ramp: share of the training, in (0, 1], over which lambda rises.
      progress: share of the training that is done, in [0, 1].
    """
    share = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0)
    return lam * (jnp.ones_like(share) if schedule == "constant" else share)
