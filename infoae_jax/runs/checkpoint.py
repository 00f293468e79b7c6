"""Checkpoints of the training state. The only module that imports Orbax."""

import contextlib
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from infoae_jax.errors import UserError
from infoae_jax.files import explain
from infoae_jax.types import Tree

_LATE, _SECONDS_OF_LATE_READS = "Event loop is closed", 0.5  # what reads say that end after another has failed


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """The folder `checkpoints/` of a run, to be used in a `with`, which ends when all that was saved is on the disk."""

    def __init__(self, run: Path, keep: int | None = None, wait: bool = False):
        """Opens the folder of `run`.

        Args:
          keep: number of the newest checkpoints to keep; None only reads, which leaves a running training alone.
          wait: whether `save` returns only when the checkpoint is on the disk, so that a process that is killed loses
            one interval at most. On a CPU that costs little: writing takes the time of cores that compute.

        Raises:
          UserError: if it is no folder.
        """
        self._run, self._folder = run.absolute(), run.absolute() / "checkpoints"
        self._wait, self._manager = wait, None
        if self._folder.exists() and not self._folder.is_dir():
            raise UserError(f"{self._folder} is not a folder. Move it away, or choose another --workdir.")
        this = jax.process_index()  # of several processes this one alone: otherwise Orbax would wait for the others
        alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
        handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
        self._reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
        if keep is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=False, cleanup_tmp_directories=True, multiprocessing_options=alone
        )
        with _quiet():
            try:
                self._manager = ocp.CheckpointManager(self._folder, options=options)
            except Exception:  # from Orbax's own notes on a checkpoint: damaged, it seems, and nobody needs them
                for notes in self._folder.glob("*/_CHECKPOINT_METADATA"):
                    notes.rename(notes.with_name("damaged_notes"))
                self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Tree) -> None:
        """Saves a copy of `state`, which may be donated at once, unless there is a checkpoint of `step` already.

        Raises:
          UserError: if this checkpoint, or the one before it, cannot be written.
        """
        assert self._manager is not None, "opened only to read"
        if step in self._manager.all_steps():
            return
        copy = jax.tree.map(np.array, state)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(copy)) * 1.1 + 2**20
        free = shutil.disk_usage(self._run).free
        if free < needed:  # asked first, because Orbax answers a full disk with pages of tracebacks
            raise self._failure(f"it needs {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB are left on the disk")
        check = ocp.args.JsonSave({"sums": _checksums(copy), "layout": _layout(copy)})
        try:
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(copy), check=check))
        except Exception as error:  # tensorstore and the file system report a full disk in many ways
            raise self._failure(error) from error
        while self._wait and self._manager.is_saving_in_progress():  # the next save, or the exit, tells of a failure
            time.sleep(0.005)

    def restore(self, abstract: Tree, step: int | None = None, part: str = "") -> tuple[int, Tree] | None:
        """Restores the newest sound checkpoint, or that of `step`: returns its step and state, None if there is none.

        Args:
          abstract: the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct`).
          part: a field of the state. Only this is read, compared and returned, and `abstract` describes it alone.

        Raises:
          UserError: if `step` is not there, was written for another kind of state, or every checkpoint is damaged.
        """
        steps = self._steps()[::-1]
        if step is not None and step not in steps:
            raise UserError(f"{self._run} has no checkpoint of step {step}. There are: {steps[::-1]}.")
        damaged: dict[int, Exception] = {}
        for candidate in steps if step is None else [step]:
            try:
                with _quiet():
                    state = self._read(candidate, abstract, part)
            except Exception as error:  # whatever a damaged file leads to
                damaged[candidate] = error
                continue
            for other, reason in damaged.items():
                about = f"The checkpoint of step {other} in {self._run} is damaged ({explain(reason)})"
                warnings.warn(f"{about}; that of step {candidate} is used instead.", stacklevel=2)
            if self._manager is not None and damaged:  # only now that there is one to resume from
                for other in damaged:  # kept, but out of the way of a new checkpoint of the same step
                    shutil.move(self._folder / str(other), self._run / f"damaged_checkpoint_{other}")
                self._manager.reload()
            return candidate, state
        if not damaged:
            return None
        if all(isinstance(error, UserError) for error in damaged.values()):  # sound, but of another code
            raise next(iter(damaged.values()))
        raise UserError(
            f"No usable checkpoint in {self._folder}: all of {sorted(damaged)} are damaged. Move the folder away to "
            f"start afresh, or choose another --workdir."
        )

    def _read(self, step: int, abstract: Tree, part: str) -> Tree:
        def read(**items: object) -> Tree:
            return self._reader.restore(self._folder / str(step), args=ocp.args.Composite(**items))

        check, prefix = read(check=ocp.args.JsonRestore())["check"], f".{part}" if part else ""
        layout = {name: kind for name, kind in check["layout"].items() if name.startswith(prefix)}
        if different := _layout(abstract, prefix).items() ^ layout.items():
            raise UserError(
                f"The checkpoint of step {step} in {self._run} was written by another version of the code: "
                f"{min(different)[0]} is not the same. Use that version, or choose another --workdir."
            )
        if part:
            item = {part: abstract}
            into = ocp.checkpoint_utils.construct_restore_args(item)
            how = ocp.args.PyTreeRestore(item=item, restore_args=into, partial_restore=True)
            state = read(state=how)["state"][part]
        else:
            state = read(state=ocp.args.StandardRestore(abstract))["state"]
        if _checksums(state, prefix).items() - check["sums"].items():
            raise ValueError("checksum mismatch")
        return state

    def __exit__(self, *exception: object) -> None:
        self._reader.close()
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            if exception[0] is None:  # otherwise the first failure is the one to report
                raise self._failure(error) from error

    def _steps(self) -> list[int]:
        """Of the checkpoints on the disk, ascending; others than complete ones have longer names."""
        return sorted(int(path.name) for path in self._folder.glob("*") if path.name.isdecimal() and path.is_dir())

    def _failure(self, error: Exception | str) -> UserError:
        reason = explain(error) if isinstance(error, Exception) else error
        return UserError(
            f"A checkpoint could not be saved in {self._run} ({reason}). Sound ones: "
            f"{self._steps() or 'none yet'}. Make room and run the same command: it resumes from the newest."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's remarks, and the tracebacks of reads that it drops when one of them has failed."""
    verbosity, dropped, uncaught = logging.get_verbosity(), sys.unraisablehook, sys.excepthook
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = lambda drop: None if _LATE in str(drop.exc_value) else dropped(drop)
    sys.excepthook = lambda kind, error, trace: None if _LATE in str(error) else uncaught(kind, error, trace)
    try:
        yield
    except Exception:
        time.sleep(_SECONDS_OF_LATE_READS)
        raise
    finally:
        logging.set_verbosity(verbosity)
        sys.unraisablehook, sys.excepthook = dropped, uncaught


def _checksums(tree: Tree, prefix: str = "") -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(leaf).tobytes()) for name, leaf in _named(tree, prefix)}


def _layout(tree: Tree, prefix: str = "") -> dict[str, str]:
    """Dtype and shape of every leaf: what a checkpoint and a state must have in common."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _named(tree, prefix)}


def _named(tree: Tree, prefix: str) -> Iterator[tuple[str, Tree]]:
    """Every leaf with its name in the whole state."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield prefix + jax.tree_util.keystr(path), leaf
