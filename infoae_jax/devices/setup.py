"""Set-up of a process that trains: devices, memory, compilation cache. For programs; the library never calls it."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax

from infoae_jax.files import cache_folder

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_CHUNK_OVERHEAD, _SMALLEST_LARGE_CHUNK = 16, 1024  # of glibc's malloc.c, in bytes
_LARGEST_SEAL = 2**20  # bytes: holes from twice this size on are few, quickly searched, and of use to steps
_LONG_COMPILATION = 1.0  # seconds: shorter ones (and programs from the cache) leave few holes


def set_up(batch_size: int | None, cpu_devices: int | None = None, compilation_cache: bool = True) -> None:
    """To be called before anything touches a device, or starts threads.

    Args:
      batch_size: what the devices will share; None: nothing in particular.
      cpu_devices: how many devices the CPU becomes; None: one for each core (XLA runs a CPU convolution on one core),
        but so many that they divide the batch.
      compilation_cache: keep compiled programs in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says.

    On Linux the process also keeps the memory that it frees, for use by later steps. A compilation of more than a
    second returns it once, and the small holes that it leaves in the heap are not used again before the next one.
    """
    jax.config.update("jax_num_cpu_devices", cpu_devices or _devices(batch_size))
    _keep_memory()
    jax.config.update("jax_enable_compilation_cache", compilation_cache)
    if compilation_cache:
        _keep_programs()


def _keep_programs() -> None:
    """Every program, also those that compile quickly, unless the user has set JAX otherwise."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = cache_folder() / "compiled" / _processor()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever can write there can run code here
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            warnings.warn(f"Compiled programs cannot be kept in the user's cache folder ({error}).", stacklevel=3)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in (("min_compile_time_secs", 0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)


def _processor() -> str:
    """Tells processors apart, since programs compiled for one may crash another that shares the home folder."""
    features = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:16]


def _devices(batch_size: int | None) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(n for n in range(1, cores + 1) if batch_size is None or batch_size % n == 0)


def _keep_memory() -> None:
    """XLA allocates its scratch memory anew for each step; glibc would return it to the system each time.

    Fetching it again, page by page, took a fifth of a training step on 32x32 RGB images. Threads share one arena,
    as those of their own hold 64 MB at most: what is larger is fetched and returned in spite of all settings.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        _seal_after_compiling()


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


def _glibc() -> ctypes.CDLL | None:
    """The C library, if memory is glibc's own, of version 2.33 or newer: no other allocator took its place."""
    # Unlike CDLL it does not hand over Python's lock at each call, which would take longer than the calls.
    libc = ctypes.PyDLL(None)
    if not (hasattr(libc, "mallinfo2") and hasattr(libc, "__libc_malloc")):
        return None
    used, own = (ctypes.cast(getattr(libc, name), ctypes.c_void_p).value for name in ("malloc", "__libc_malloc"))
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.mallinfo2.restype = _Mallinfo
    return libc if used == own else None


@functools.cache  # once, however often the process is set up
def _seal_after_compiling() -> None:
    libc = _glibc()
    if libc is None:
        return
    sealed: list[int] = []
    one_at_a_time = threading.Lock()

    def listener(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("/backend_compile_duration") and duration_secs > _LONG_COMPILATION:
            with one_at_a_time:
                _seal_holes(libc, sealed)

    jax.monitoring.register_event_duration_secs_listener(listener)


def _seal_holes(libc: ctypes.CDLL, sealed: list[int]) -> None:
    """Allocates the holes in the heap, so that nobody is given them until the next call.

    A compilation leaves tens of thousands of them, of every size, between what lives on. Most allocations of some
    kilobytes then search glibc's lists of them, one by one: a process that had compiled its program took 5 to 25 %
    longer for a training step than one that found it in the cache. Pages that are all free go back to the system.

    Args:
      sealed: the blocks of the last call, which are freed; afterwards those of this one.
    """
    for block in sealed:
        libc.free(block)
    sealed.clear()
    libc.malloc_trim(0)
    info = libc.mallinfo2()
    total, most, size = 0, info.fordblks - info.keepcost, _LARGEST_SEAL
    while size > _SMALLEST_LARGE_CHUNK and total <= most:  # smaller ones have lists for each size
        # What is larger than this size was filled before; so blocks that follow one another come from the large pieces
        # that steps use, or from the end of the heap. Should another thread allocate in between, a block too many is
        # sealed.
        last, block = libc.malloc(size), libc.malloc(size)
        while last and block and block != last + size + _CHUNK_OVERHEAD and total <= most:
            sealed.append(last)
            total += size
            last, block = block, libc.malloc(size)
        libc.free(last)
        libc.free(block)
        size = int(0.9 * size) // 16 * 16
    if total > most:  # not how glibc is known to work
        for block in sealed:
            libc.free(block)
        sealed.clear()
