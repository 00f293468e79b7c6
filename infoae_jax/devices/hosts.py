"""Several hosts: one process on each, which share every batch; `jax.distributed` connects them.

All processes run the same program on the same data. The first alone reads and writes the run folder.
"""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from infoae_jax.errors import UserError

T = TypeVar("T")
_LONGEST = 2000  # bytes of a message between processes


def connect(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the other processes, before anything touches a device. Without arguments: as Slurm or the like says.

    Args:
      coordinator: address of the first process, `host:port`.

    Raises:
      UserError: if they cannot be found.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes could not be connected ({str(error).strip().splitlines()[0]}). Each of them needs the same "
            f"--coordinator=host:port and --num_processes, and a --process_id of its own from 0; on Slurm, "
            f"--coordinator=auto alone."
        ) from error


def is_first() -> bool:
    return jax.process_index() == 0


def put(tree: Any, sharding: Sharding) -> Any:
    """`jax.device_put`, also where some of the devices belong to other processes (which hold the same `tree`)."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def cut(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(cut, tree)


def local(tree: Any) -> Any:
    """`tree` for use on this host's devices alone: what is the same everywhere, as numpy arrays if it is spread."""

    def get(x: Any) -> Any:
        return np.asarray(x) if isinstance(x, jax.Array) and not x.is_fully_addressable else x

    return jax.tree.map(get, tree)


def from_first(find: Callable[[], T], like: T) -> T:
    """What `find` gives in the first process, in all of them; it is called there only.

    Args:
      like: arrays of the same shapes and dtypes.

    Raises:
      UserError: in every process, if `find` raises one.
    """
    if jax.process_count() == 1:
        return find()
    error, found = "", like
    if is_first():
        try:
            found = find()
        except UserError as caught:
            error = str(caught)
    text = np.frombuffer(error.encode()[:_LONGEST].ljust(_LONGEST), np.uint8)
    said = bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))).decode(errors="ignore").strip()
    if said:
        raise UserError(said)
    return multihost_utils.broadcast_one_to_all(jax.tree.map(lambda x: np.asarray(x, jnp.result_type(x)), found))


def on_first(do: Callable[[], Any]) -> None:
    """Calls `do` in the first process; if it raises `UserError`, all processes do."""

    def find() -> int:
        do()
        return 0

    from_first(find, 0)


def check_same(what: str, text: str) -> None:
    """Raises `UserError` in every process unless `text` is the same in all of them."""
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    different = [i for i, other in enumerate(everyone) if not np.array_equal(other, everyone[0])]
    if different:
        raise UserError(f"Process {different[0]} has other {what} than process 0. Start all of them alike.")


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
