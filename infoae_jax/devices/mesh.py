"""The axis over which devices share a batch, and the kind of these devices."""

import jax

AXIS = "data"


def is_cpu() -> bool:
    """Whether this process computes on the CPU.

    There XLA computes convolutions within loops far more slowly (jax-ml/jax#12868), devices use the host's memory, and
    several devices share its cores.
    """
    return _platform() == "cpu"


def is_gpu() -> bool:
    """Whether this process computes on a GPU, which XLA chooses algorithms for by timing them."""
    return _platform() == "gpu"


def _platform() -> str:
    return jax.local_devices()[0].platform  # asked nowhere else
