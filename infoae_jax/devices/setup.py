"""Set-up of a process that computes: devices, memory, compilation cache. For programs; the library never calls it."""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path

import jax
import jaxlib

from infoae_jax.devices.compiling import choose_tuning
from infoae_jax.errors import UserError
from infoae_jax.files import cache_folder

# An unknown name in XLA_FLAGS ends the process: hence only the versions that were tried.
_ONEDNN_VERSIONS = (0, 11), (0, 12)
_ONEDNN_FLAGS = (
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
    "--xla_cpu_experimental_onednn_custom_call=true",
)
MAX_CPU_DEVICES = 256  # each has threads and memory of its own
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def set_up(
    batch_size: int | None,
    cpu_devices: int | None = None,
    compilation_cache: bool = True,
    gpu_tuning: str = "quick",
    onednn: bool = False,
) -> None:
    """Configures JAX, XLA and, where the CPU computes on Linux, memory: the process keeps what it frees for later.

    Call it before anything touches a device or starts threads. The CPU computes if JAX_PLATFORMS begins with 'cpu', or
    if it is not set and no plugin for an accelerator is installed.

    Args:
      batch_size: how many images the devices will share in a step; None if any number.
      cpu_devices: into how many devices to split the CPU; by default one for each core (XLA runs a CPU convolution on
        one core), or as many fewer as divide the batch.
      compilation_cache: keep compiled programs in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says.
      gpu_tuning: how long XLA looks for the fastest kernels of a GPU: 'none', 'quick' or, for minutes, 'full'.
      onednn: let the CPU compute convolutions by oneDNN, where XLA can. A step of a training takes 0.8 to 0.9 times as
        long then, but XLA cannot keep such programs: each start compiles them.

    Raises:
      UserError: if there is no such tuning, or the CPU cannot be so many devices.
    """
    if cpu_devices is not None and not 1 <= cpu_devices <= MAX_CPU_DEVICES:
        raise UserError(f"--cpu_devices is {cpu_devices}, but must be from 1 to {MAX_CPU_DEVICES}.")
    choose_tuning(gpu_tuning)
    jax.config.update("jax_enable_x64", False)  # for all threads; library functions see to it themselves
    jax.config.update("jax_num_cpu_devices", cpu_devices or _num_devices(batch_size))
    if _will_use_cpu():
        if onednn:
            _use_onednn()
        if sys.platform == "linux":
            _keep_memory()
    jax.config.update("jax_enable_compilation_cache", compilation_cache)
    if compilation_cache:
        _keep_programs()


def _num_devices(batch_size: int | None) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(n for n in range(1, cores + 1) if batch_size is None or batch_size % n == 0)


def _will_use_cpu() -> bool:
    """Whether JAX will choose the CPU. To ask JAX itself would start the devices, before `hosts.connect` can."""
    if platforms := jax.config.values["jax_platforms"]:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def _use_onednn() -> None:
    version = tuple(map(int, jaxlib.__version__.split(".")[:2]))
    given = os.environ.get("XLA_FLAGS", "")
    has_chosen = any(flag.partition("=")[0] in given for flag in _ONEDNN_FLAGS)  # the user
    if version in _ONEDNN_VERSIONS and not has_chosen:
        os.environ["XLA_FLAGS"] = " ".join([*_ONEDNN_FLAGS, given])
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")


def _keep_memory() -> None:
    """Keeps glibc from returning XLA's scratch memory to the system: that can take an eighth of a training step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never


def _keep_programs() -> None:
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            # What XLA found out about the kernels of a GPU is kept there too, and holds for one version of it.
            folder = cache_folder() / "compiled" / f"{_processor()}-{jaxlib.__version__}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever can write there can run code here
        except OSError as error:
            warnings.warn(f"Compiled programs cannot be kept in the user's cache folder ({error}).", stacklevel=3)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in (("min_compile_time_secs", 0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)


def _processor() -> str:
    """A name for this kind of processor: programs compiled for one may crash another that shares the home folder."""
    features = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:16]
