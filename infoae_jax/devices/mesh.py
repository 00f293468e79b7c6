"""The devices that share a batch, along one axis, and their kind."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

AXIS = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """These devices, by default all local ones, along `AXIS`.

    Its axis is Auto, not Explicit as `jax.make_mesh` gives it: sharding is no part of the types here.
    """
    return Mesh(np.array(devices or jax.local_devices()), (AXIS,))


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
