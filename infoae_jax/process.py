"""Set-up of a process that trains: devices, memory, compilation cache. For programs; the library never calls it."""

import ctypes
import os
import sys
import warnings

import jax

from infoae_jax.data import user_cache_folder

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def set_up(batch_size: int, cpu_devices: int | None = None, compilation_cache: bool = True) -> None:
    """To be called before anything touches a device.

    Args:
      batch_size: what the devices will share.
      cpu_devices: how many devices the CPU becomes; None: one for each core (XLA runs a CPU convolution on one core),
        but so many that they divide the batch.
      compilation_cache: keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR or JAX's
        own settings name another.
    """
    jax.config.update("jax_num_cpu_devices", cpu_devices or _devices(batch_size))
    _keep_memory()
    if compilation_cache and not jax.config.values["jax_compilation_cache_dir"]:
        folder = user_cache_folder() / "compiled"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever can write there can run code here
        except OSError as error:
            warnings.warn(f"Compiled programs could not be cached in {folder} ({error}).", stacklevel=2)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _devices(batch_size: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(n for n in range(1, cores + 1) if batch_size % n == 0)


def _keep_memory() -> None:
    """XLA allocates its scratch memory anew for each step; glibc would return it to the system each time.

    Fetching it again, page by page, took a fifth of a training step on 32x32 RGB images.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
