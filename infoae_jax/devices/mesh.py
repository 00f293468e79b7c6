"""The axis over which devices share a batch, and the kind of these devices."""

import jax

AXIS = "data"


def is_cpu() -> bool:
    """Whether this process computes on the CPU; asked nowhere else.

    There XLA computes convolutions within loops far more slowly (jax-ml/jax#12868), devices use the host's memory, and
    several devices share its cores.
    """
    return jax.local_devices()[0].platform == "cpu"
