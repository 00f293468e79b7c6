"""The run folder's text files: config.json (written once) and metrics.jsonl (only ever appended to).

Every table and picture made later is a pure reader of these files. A metrics line is one JSON object with a 'kind':
'start' (a process began: versions, device, code), 'step' (losses of one step), 'epoch' (means over an epoch),
'test' (figures on the test split), 'align' and 'refine' (losses of the last step of an epoch of these), 'stop',
'diverged', 'end'.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from infoae_jax.config import Config, differences, parse, to_dict
from infoae_jax.errors import BusyError, UserError
from infoae_jax.files import write_atomically
from infoae_jax.runs.provenance import environment, now
from infoae_jax.types import Json

_ATTEMPTS, _PAUSE = 5, 0.02  # to lock a folder; seconds between them
FORMAT = 14  # of config.json: the only one that this version reads


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The contents of config.json: the configuration, and the data set that the model was made for."""

    config: Config
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    fingerprint: str


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps other trainings out of it; the system frees the lock even after `kill -9`.

    Raises:
      UserError: if the folder cannot be written or locked, or (BusyError) another process trains in it.
    """
    created = not folder.exists()
    path = folder / ".lock"
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "a")  # noqa: SIM115 (held open while the lock is)
        except OSError as error:
            raise UserError(
                f"The run folder {str(folder)!r} cannot be written ({error}). Choose another --workdir."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except (BlockingIOError, FileNotFoundError):
                taken = False
            except OSError as error:
                raise UserError(
                    f"The folder {str(folder)!r} cannot be locked against a second training ({error}): its file system "
                    f"may have no locks. Choose a --workdir on another one."
                ) from error
            if taken:
                try:
                    yield
                finally:
                    if not (folder / "config.json").exists():  # refused before it became a run: leave no trace
                        path.unlink(missing_ok=True)
                        if created:
                            with contextlib.suppress(OSError):
                                folder.rmdir()
                return
        if attempt < _ATTEMPTS:  # somebody only asked (`is_locked`), or removed the file just now
            time.sleep(_PAUSE)
    raise BusyError(f"Another process is training in {str(folder)!r}. Wait for it, or choose another --workdir.")


def is_locked(folder: Path) -> bool:
    """Whether a process trains or evaluates in `folder` now. Changes nothing there."""
    try:
        with open(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # does not stop others who ask; freed by closing
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or there are no locks
        return False
    return False


def open_run(folder: Path, info: RunInfo, device: str) -> None:
    """Writes config.json into a fresh folder, or checks that the folder holds the same experiment.

    To be called under `lock`. `device` says what it is trained on.

    Raises:
      UserError: if the folder holds another experiment (naming the fields that differ) or is not a run folder.
    """
    path = folder / "config.json"
    for leftover in folder.glob(".config.json-*"):  # of a process that was killed while writing it
        leftover.unlink()
    if path.exists():
        old = read_info(folder)
        found = differences(old.config, info.config)
        if not found and old.fingerprint != info.fingerprint:
            found = [
                f"the images themselves: {old.num_train} + {old.num_test} then, {info.num_train} + {info.num_test} now"
            ]
        if found:
            raise UserError(
                f"The run folder {str(folder)!r} belongs to another experiment. Different (there -> asked for):\n  "
                + "\n  ".join(found)
                + "\nChoose another --workdir, or ask for the same."
            )
        return
    others = [p.name for p in folder.iterdir() if p.name not in (".lock", "sweep")]
    if others:
        raise UserError(
            f"The folder {str(folder)!r} is not empty and not a run (it holds {others[0]!r}). Choose another --workdir."
        )
    record = {
        "format": FORMAT,
        "config": to_dict(info.config),
        "data": {k: v for k, v in dataclasses.asdict(info).items() if k != "config"},
        "environment": {**environment(), "device": device},
        "created": now(),
    }
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_info(folder: str | Path) -> RunInfo:
    """Reads config.json.

    Raises:
      UserError: if it is missing, damaged, or has another format.
    """
    return parse_record(read_record(folder), Path(folder) / "config.json")


def read_record(folder: str | Path) -> Json:
    """config.json as it is. `parse_record` makes sense of it.

    Raises:
      UserError: if it is missing or no JSON.
    """
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise ValueError(f"it holds {str(record)[:20]!r}")
        return record
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no config.json.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error!r}).") from error


def parse_record(record: Json, path: str | Path) -> RunInfo:
    """Checks a record of config.json.

    Args:
      record: the JSON object.
      path: the file that it was read from, for error messages.

    Raises:
      UserError: if it has another format, or a value that cannot be.
    """
    found = record.get("format")
    if found != FORMAT:
        raise UserError(
            f"{str(path)!r} describes a run in format {found!r}, but this version of infoae_jax reads format {FORMAT} "
            f"only. Use the version that made it, or train again in another --workdir."
        )
    try:
        data = record["data"]
        return RunInfo(
            config=parse(record["config"]),
            image_shape=tuple(data["image_shape"]),
            class_names=tuple(data["class_names"]),
            num_train=data["num_train"],
            num_test=data["num_test"],
            fingerprint=data["fingerprint"],
        )
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error!r}).") from error
