"""Checkpoints of the training state, by Orbax. The only module that imports it."""

import contextlib
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from infoae_jax.errors import UserError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's remarks, and without the tracebacks of reads that it drops when one of them has failed."""
    verbosity, hook = logging.get_verbosity(), sys.unraisablehook

    def drop(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = drop
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        sys.unraisablehook = hook


def _named(tree: Any, part: str = "") -> dict[str, Any]:
    """Every leaf by its name in the whole state."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {part + jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _checksums(leaves: dict[str, Any]) -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in leaves.items()}


def _layout(leaves: dict[str, Any]) -> dict[str, str]:
    """Dtype and shape of every leaf: what a checkpoint and a state must have in common."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


class Checkpoints:
    """The folder `checkpoints/` of a run, to be used in a `with`. Saving goes on in the background, unless `wait`."""

    def __init__(self, run: Path, keep: int | None = None, wait: bool = False):
        """Opens the folder.

        Args:
          keep: how many of the newest to keep; None opens for reading, which leaves a running training alone.
          wait: `save` returns when the checkpoint is on the disk, so that a process that is killed loses one interval
            at most. On a CPU that costs little, as the writing takes time of the cores that compute.
        """
        self._run, self._wait = Path(run).absolute(), wait
        self._writes = keep is not None
        several = jax.process_count() > 1
        if several and self._writes:
            (self._run / "checkpoints").mkdir(exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            read_only=not self._writes,
            create=self._writes and not several,
            cleanup_tmp_directories=self._writes,
            # This process alone; otherwise Orbax would wait for the others.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            )
            if several
            else ocp.options.MultiprocessingOptions(),
        )
        with _quiet():
            self._manager = ocp.CheckpointManager(self._run / "checkpoints", options=options)

    def save(self, step: int, state: Any) -> None:
        """Saves, or starts to; a copy is taken first, so `state` may be donated at once. A step is saved only once."""
        if step in self._manager.all_steps():
            return
        copy = jax.tree.map(np.array, state)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(copy)) * 1.1 + 2**20
        free = shutil.disk_usage(self._run).free
        if free < needed:  # asked first, because Orbax answers a full disk with pages of tracebacks
            raise self._failure(
                OSError(f"it needs {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are left on the disk")
            )
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(copy),
            check=ocp.args.JsonSave({"sums": _checksums(_named(copy)), "layout": _layout(_named(copy))}),
        )
        try:
            self._manager.save(step, args=args)
        except Exception as error:  # tensorstore and the file system report a full disk in many ways
            raise self._failure(error) from error
        while self._wait and self._manager.is_saving_in_progress():  # a failure is told by the next save, or `close`
            time.sleep(0.005)

    def restore(self, abstract: Any, step: int | None = None, part: str = "") -> tuple[int, Any] | None:
        """The newest sound checkpoint (or `step`'s), as (step, state), or None if there is none at all.

        Args:
          abstract: the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct`).
          part: a field of the state. Only it is read, compared and returned, and `abstract` is of it alone.

        Raises:
          UserError: if `step` is not there, was written for another kind of state, or every checkpoint is damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if step is not None and step not in steps:
            raise UserError(f"{self._run} has no checkpoint of step {step}. There are: {steps[::-1]}.")
        if not steps:
            return None
        damaged = []
        for candidate in steps if step is None else [step]:
            try:
                with _quiet():
                    args = ocp.args.Composite(check=ocp.args.JsonRestore())
                    check = self._manager.restore(candidate, args=args)["check"]
                    prefix = f".{part}" if part else ""
                    there = {name: kind for name, kind in check["layout"].items() if name.startswith(prefix)}
                    odd = sorted(dict(_layout(_named(abstract, prefix)).items() ^ there.items()))
                    if not odd:
                        state = self._read(candidate, abstract, part)
                        if _checksums(_named(state, prefix)).items() - check["sums"].items():
                            raise ValueError("checksum mismatch")
            except Exception as error:  # whatever a damaged file leads to
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                warnings.warn(f"The checkpoint of step {candidate} in {self._run} is damaged ({reason}).", stacklevel=2)
                damaged.append(candidate)
                continue
            if odd:
                raise UserError(
                    f"The checkpoint of step {candidate} in {self._run} was written by another version of the code: "
                    f"{odd[0]} is not the same. Use that version, or choose another --workdir."
                )
            for other in damaged if self._writes else []:  # only now that there is one to go on from
                self._set_aside(other)
            return candidate, state
        raise UserError(
            f"No usable checkpoint in {self._run / 'checkpoints'}: all of {steps[::-1]} are damaged. Move the folder "
            f"away to start afresh, or choose another --workdir."
        )

    def _read(self, step: int, abstract: Any, part: str) -> Any:
        if not part:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            return self._manager.restore(step, args=args)["state"]
        item = {part: abstract}
        into = ocp.checkpoint_utils.construct_restore_args(item)
        read = ocp.args.PyTreeRestore(item=item, restore_args=into, partial_restore=True)
        return self._manager.restore(step, args=ocp.args.Composite(state=read))["state"][part]

    def close(self) -> None:
        """Waits until what was saved is on the disk."""
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            raise self._failure(error) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.close()
            return
        with contextlib.suppress(UserError):  # the first failure is the one to report
            self.close()

    def _set_aside(self, step: int) -> None:
        """Out of the way of a new checkpoint of the same step, without deleting it."""
        shutil.move(self._run / "checkpoints" / str(step), self._run / f"damaged_checkpoint_{step}")
        self._manager.reload()

    def _failure(self, error: Exception) -> UserError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        whole = [s for s in sorted(self._manager.all_steps()) if (self._run / "checkpoints" / str(s)).is_dir()]
        return UserError(
            f"A checkpoint could not be saved in {self._run} ({reason}). Sound ones: steps {whole}. Make room and run "
            f"the same command to go on from the newest."
        )
