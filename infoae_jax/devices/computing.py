"""What every computation of this library rests on, whatever the caller's environment says."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from infoae_jax.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


def computing(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator of functions that compute: in float32 and by JAX's usual promotion, whatever the caller has set.

    Each thread needs it anew. The caller's own settings stay.

    Raises:
      UserError: if JAX_PLATFORMS names a platform that JAX cannot use here.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        check_platform()
        # Optax needs the usual promotion.
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
            return function(*args, **kwargs)

    return run


def check_platform() -> None:
    """Raises `UserError` if JAX_PLATFORMS names a platform that JAX cannot use here."""
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        asked = jax.config.values["jax_platforms"]
        if not asked:
            raise
        reason = (str(error).strip().splitlines() or ["it has no device"])[0].split(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS is {asked!r}, but JAX cannot use that here ({reason}). Unset it, or set it to 'cpu', "
            f"which is always there."
        ) from error
