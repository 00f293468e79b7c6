"""Options of XLA for programs on a GPU.

By default XLA builds and times each algorithm that cuDNN offers for each convolution, and each tiling of each product:
on an H100 (jax 0.11.2) the first step had not come after two minutes. What other options give was not measured yet
(`benchmarks/gpu.py` does).
"""

from typing import Literal, TypeAlias, get_args

from infoae_jax.devices.mesh import is_gpu
from infoae_jax.errors import UserError

Tuning: TypeAlias = Literal["none", "quick", "full"]
Use: TypeAlias = Literal["steps", "rare"]  # a program of training steps, or one that runs now and then
Options: TypeAlias = dict[str, bool | int]
_ONE_ALGORITHM: Options = {"xla_gpu_deterministic_ops": True}
# cuDNN's algorithms are timed, without a check of their results; nothing else is.
_QUICK: Options = {
    "xla_gpu_autotune_level": 1,
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_experimental_enable_fusion_autotuner": False,
}
OPTIONS: dict[tuple[str, Use], Options] = {
    ("none", "steps"): _ONE_ALGORITHM,
    ("quick", "steps"): _QUICK,
    ("full", "steps"): {},
    **{(tuning, "rare"): _ONE_ALGORITHM for tuning in get_args(Tuning)},
}
_chosen = ["quick"]


def choose_tuning(tuning: str) -> None:
    """Chooses how much time to spend on the choice of algorithms; call it before anything is compiled.

    Raises:
      UserError: unless `tuning` is one of `Tuning`.
    """
    if tuning not in get_args(Tuning):
        raise UserError(f"gpu_tuning is {tuning!r}, but must be one of {', '.join(get_args(Tuning))}.")
    _chosen[:] = [tuning]


def compiler_options(use: Use) -> Options | None:
    """What to pass to `jax.jit`."""
    return OPTIONS[_chosen[0], use] if is_gpu() else None
