"""The axis over which devices share a batch, and what kind of devices they are."""

import jax

AXIS = "data"


def is_cpu() -> bool:
    """Whether this process computes on the CPU: the one place that asks.

    There XLA runs a convolution within a loop far slower (jax-ml/jax#12868), memory is the host's own, and several
    devices share the cores.
    """
    return jax.local_devices()[0].platform == "cpu"
