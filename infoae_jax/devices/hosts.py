"""Several hosts, with one process on each: they share every batch, connected by `jax.distributed`.

All processes run the same program on the same data. Only the first one reads and writes the run folder.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Sharding

from infoae_jax.errors import UserError
from infoae_jax.types import Tree

T = TypeVar("T")
_MAX_MESSAGE_BYTES = 2000


def connect(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the other processes; call it before anything touches a device. Raises `UserError` if that fails.

    Args:
      coordinator: address of the first process, `host:port`; by default this and the others are read from the
        environment, as Slurm and some clusters set it.
      process_id: which process this is, from 0.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes could not be connected ({str(error).strip().splitlines()[0]}). Give each of them the same "
            f"--coordinator=host:port and --num_processes, and its own --process_id from 0. On Slurm, "
            f"--coordinator=auto is enough."
        ) from error


def is_first() -> bool:
    return jax.process_index() == 0


def put(tree: Tree, sharding: Sharding) -> Tree:
    """`jax.device_put`, also where other processes (which hold the same `tree`) own some of the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    arrays = jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), arrays)


def local(tree: Tree) -> Tree:
    """`tree` for this host's devices alone: arrays replicated over several hosts become NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x) if isinstance(x, jax.Array) and not x.is_fully_addressable else x, tree)


def from_first(find: Callable[[], T], like: T) -> T:
    """The tree of arrays that `find` returns in the first process, for all; if it raises `UserError`, all processes do.

    Args:
      like: arrays of the same shapes and dtypes.
    """
    if jax.process_count() == 1:
        return find()
    error, found = "", like
    if is_first():
        try:
            found = find()
        except UserError as caught:
            error = str(caught)
    message = np.frombuffer(error.encode()[:_MAX_MESSAGE_BYTES].ljust(_MAX_MESSAGE_BYTES), np.uint8)
    if received := bytes(np.asarray(broadcast_one_to_all(message))).decode(errors="ignore").strip():
        raise UserError(received)
    return broadcast_one_to_all(jax.tree.map(lambda x: np.asarray(x, jnp.result_type(x)), found))


def on_first(do: Callable[[], object]) -> None:
    """Calls `do` in the first process; if it raises `UserError`, all processes do."""
    from_first(lambda: bool(do()), False)  # the bool is not read: processes can only share arrays


def check_same(what: str, text: str) -> None:
    """Raises `UserError` in every process unless `text` is the same in all of them."""
    if jax.process_count() == 1:
        return
    digests = np.asarray(process_allgather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)))
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise UserError(f"The {what} of process {different[0]} differ from those of process 0. Start them all alike.")


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them have to ask."""
    return flag if jax.process_count() == 1 else bool(np.any(process_allgather(np.array(flag))))
