"""The run folder: its lock, and config.json, which is written once and says which experiment the folder holds."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypedDict

import msgspec
from filelock import FileLock, Timeout

from infoae_jax.config import Config, check_image_shape, differences, parse
from infoae_jax.errors import BusyError, UserError
from infoae_jax.files import read_json, user_path, write_atomically
from infoae_jax.runs.provenance import environment, now
from infoae_jax.types import Json

FORMAT = 21  # of config.json: the only one that this version reads
_NO_CONFIG = "Restore it, or move the folder away and train again."
_LOCK_SECONDS = 0.1  # to wait for a lock: `is_locked` holds it for a moment


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The contents of config.json: the configuration, and the data set for which the model was made."""

    config: Config
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    fingerprint: str


Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=1000)]


class _Data(TypedDict):
    image_shape: tuple[Positive, Positive, Literal[1, 3]]
    class_names: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=2, max_length=100_000)]
    num_train: Positive
    num_test: Positive
    fingerprint: str


class _Record(TypedDict):
    config: Json
    data: _Data


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps other trainings out of it. The system frees the lock even after `kill -9`.

    A folder that does not become a run is left as it was.

    Raises:
      BusyError: if another process trains or evaluates in it.
      UserError: if it cannot be written or locked.
    """
    is_new, file = not folder.exists(), _lock_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.acquire(timeout=_LOCK_SECONDS, poll_interval=_LOCK_SECONDS / 5)
    except OSError as error:
        is_blocked = folder.is_file() or folder.is_symlink()  # otherwise the other process has just removed the folder
        if isinstance(error, Timeout) or (isinstance(error, FileNotFoundError | FileExistsError) and not is_blocked):
            advice = "Wait for it, or choose another --workdir."
            raise BusyError(f"Another process is training in {str(folder)!r}. {advice}") from error
        advice = "Choose another --workdir, on a file system that can lock files."
        raise UserError(f"The run folder {str(folder)!r} cannot be written or locked ({error}). {advice}") from error
    try:
        yield
    finally:
        if not (folder / "config.json").exists():
            Path(file.lock_file).unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        file.release()


def is_locked(folder: Path) -> bool:
    """Whether a process trains or evaluates in `folder` now. Changes nothing there."""
    file = _lock_file(folder)
    try:
        if Path(file.lock_file).exists():
            file.acquire(blocking=False)
            file.release()
    except OSError as error:  # other than Timeout: the folder is not ours to lock, or its file system has no locks
        return isinstance(error, Timeout)
    return False


def _lock_file(folder: Path) -> FileLock:
    return FileLock(folder / ".lock", fallback_to_soft=False)  # a soft lock would outlive `kill -9`


def open_run(folder: Path, info: RunInfo, device: str) -> None:
    """Writes config.json into a fresh folder, or checks that it holds the same experiment. It must be locked.

    Raises:
      UserError: if the folder holds another experiment (naming the fields that differ) or is not a run folder.
    """
    path = folder / "config.json"
    for leftover in folder.glob(".config.json-*"):  # of a process that was killed while writing it
        leftover.unlink()
    if path.exists():
        there = check_config(folder, info.config)
        if there.fingerprint != info.fingerprint:
            raise UserError(
                f"The run in {str(folder)!r} was started with other images: {there.num_train} + {there.num_test} then, "
                f"{info.num_train} + {info.num_test} now. Choose another --workdir, or use the same images."
            )
        return
    if others := [p.name for p in folder.iterdir() if p.name not in (".lock", "sweep")]:
        raise UserError(
            f"The folder {str(folder)!r} is not empty and not a run (it holds {others[0]!r}). Choose another --workdir."
        )
    data, where = dataclasses.asdict(info), {**environment(), "device": device}
    record = {"format": FORMAT, "config": data.pop("config"), "data": data, "environment": where, "created": now()}
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def check_config(folder: Path, config: Config) -> RunInfo:
    """Reads config.json; raises `UserError`, naming the settings that differ, unless `config` can resume the run."""
    there = read_info(folder)
    if changes := differences(there.config, config):
        raise UserError(
            f"The run folder {str(folder)!r} belongs to another experiment. Settings that differ (there -> asked "
            "for):\n  " + "\n  ".join(changes) + "\nChoose another --workdir, or ask for the same settings."
        )
    return there


def read_info(folder: str | Path) -> RunInfo:
    """Reads config.json; raises `UserError` if it is missing, damaged, or in another format."""
    folder = user_path(folder, "run")
    return parse_record(read_record(folder), folder / "config.json")


def read_record(folder: str | Path) -> Json:
    """Reads config.json as it is; raises `UserError` if it is missing or not a JSON object."""
    try:
        return read_json(Path(folder) / "config.json", dict, _NO_CONFIG)
    except FileNotFoundError as error:
        raise UserError(f"{str(folder)!r} is not a run folder: it has no config.json.") from error


def parse_record(record: Json, path: str | Path) -> RunInfo:
    """Parses what `read_record` returns; raises `UserError`, naming `path`, if its format or a value is wrong."""
    if record.get("format") != FORMAT:
        raise UserError(
            f"{str(path)!r} describes a run in format {record.get('format')!r}, but this version of infoae_jax reads "
            f"format {FORMAT} only. Use the version that made it, or train again in another --workdir."
        )
    try:
        found = msgspec.convert(record, _Record)
        data, names = found["data"], found["data"]["class_names"]
        check_image_shape(data["image_shape"])
        if len(set(names)) < len(names):
            raise UserError("two classes have the same name")
        config = parse(found["config"])
        return RunInfo(config, data["image_shape"], names, data["num_train"], data["num_test"], data["fingerprint"])
    except (UserError, ValueError) as error:
        raise UserError(f"{str(path)!r} is damaged or was changed: {error}") from error
