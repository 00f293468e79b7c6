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
      schedule: 'constant', 'linear' (0 to `lam` over the ramp), or 'dann' (`2 / (1 + exp(-10 p)) - 1` times `lam`,
        Ganin & Lempitsky 2015, section 4.1).
      lam: the final value.
      ramp: share of the training, in (0, 1], over which lambda rises; p runs from 0 to 1 over it.
      progress: share of the training that is done, in [0, 1].
    """
    p = jnp.minimum(jnp.asarray(progress, jnp.float32) / ramp, 1.0)
    shapes = {"constant": jnp.ones_like, "linear": lambda p: p, "dann": lambda p: 2 / (1 + jnp.exp(-10 * p)) - 1}
    return lam * shapes[schedule](p)
