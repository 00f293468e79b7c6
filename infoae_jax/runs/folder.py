"""The run folder's text files: config.json (written once) and metrics.jsonl (only ever appended to).

Every table and picture made later is a pure reader of these files. A metrics line is one JSON object with a 'kind':
'start' (a process began: versions, device, code), 'step' (losses of one step), 'epoch' (means over an epoch),
'test' (figures on the test split), 'align' and 'refine' (losses of the last step of an epoch of these), 'stop',
'diverged', 'end'.
"""

import contextlib
import copy
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infoae_jax.config import Config, differences, parse, to_dict
from infoae_jax.errors import BusyError, UserError
from infoae_jax.files import write_atomically
from infoae_jax.runs.provenance import environment, now

_ATTEMPTS, _PAUSE = 5, 0.02  # to lock a folder; seconds between them
_FORMAT = 13
# Settings that a config.json of an older format lacks, by the format that brought them: what was done before.
_BROUGHT: dict[int, dict[str, dict[str, Any]]] = {
    2: {"train": {"steps_per_call": 1, "dtype": "float32"}},
    3: {"evaluate": {"at_end": "no"}},
    4: {
        "model": {"couplings": 0, "coupling_hidden": 1},
        "alignment": {"epochs": 1, "batch_size": 1, "learning_rate": 1.0, "lambda_adv": 0.0},
    },
    5: {
        "alignment": {"style_weight": 0.0},
        "refine": {"epochs": 0, "learning_rate": 1.0, "style_weight": 0.0, "content_weight": 0.0},
    },
    6: {"model": {"unfold": False}, "train": {"cycle_weight": 0.0}},
    7: {"refine": {"cycle_weight": 0.0}},
    8: {"train": {"cycle_weight": 0.0}},
    9: {"refine": {"content_noise": 0.0}},
    10: {"model": {"reference_couplings": 10}, "train": {"content_shift": 0}},
}
# Settings that a config.json of an older format may have, by the format that dropped them: the value that changed
# nothing, or that all models have now.
_DROPPED: dict[int, dict[str, dict[str, Any]]] = {
    8: {"train": {"cycle_weight": 0.0}},  # it was of another loss, between latents
    11: {"alignment": {"transport": 0.0}},
    12: {"model": {"unfold": True}},
    13: {"train": {"clip_norm": 0.0}},
}
# Their names, also of those that came back as another setting.
GONE = tuple(f"{section}.{name}" for dropped in _DROPPED.values() for section in dropped for name in dropped[section])
# Whether nothing of these was used, by what the model was.
_UNUSED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "alignment": lambda model: not model["couplings"],
    "model": lambda model: not model["couplings"] or model["latent"] != "ball",
}


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What config.json says: the configuration, and the data set the model was made for.

    gone: settings that it was trained with, as 'field: value', which this version does not have.
    """

    config: Config
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    fingerprint: str
    gone: tuple[str, ...] = ()

    def differences(self, config: Config) -> list[str]:
        """What makes `config` another experiment, each as 'field: old -> new'."""
        return [f"{setting} -> no longer in this version" for setting in self.gone] + differences(self.config, config)


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
        found = old.differences(info.config)
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
        "format": _FORMAT,
        "config": to_dict(info.config),
        "data": {k: v for k, v in dataclasses.asdict(info).items() if k not in ("config", "gone")},
        "environment": {**environment(), "device": device},
        "created": now(),
    }
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def read_info(folder: str | Path) -> RunInfo:
    """Reads config.json.

    Raises:
      UserError: if it is missing or not one of ours.
    """
    path = Path(folder) / "config.json"
    record = read_record(folder)
    try:
        return parse_record(record)
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error!r}).") from error


def read_record(folder: str | Path) -> dict[str, Any]:
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


def parse_record(record: dict[str, Any]) -> RunInfo:
    """What a config.json, of this version or an older one, means.

    Raises:
      UserError: if it was written by a newer version, or a setting cannot be. KeyError, TypeError, ValueError: if it is
        something else.
    """
    if record["format"] > _FORMAT:
        raise UserError("it was written by a newer version of this package. Use that one to read it.")
    config, data = copy.deepcopy(record["config"]), record["data"]
    gone = []
    for number in range(record["format"] + 1, _FORMAT + 1):
        for section, values in _DROPPED.get(number, {}).items():
            unused = section in _UNUSED and _UNUSED[section](config["model"])
            for name, nothing in values.items():
                value = config[section].pop(name, nothing)
                if value == nothing or unused:
                    continue
                if section == "model":  # it would draw, and tell nobody that it is another one
                    raise UserError(
                        f"model.{name}: {value!r} is no longer in this version. Use an older one to read it."
                    )
                gone.append(f"{section}.{name}: {value!r}")
        for section, values in _BROUGHT.get(number, {}).items():
            config.setdefault(section, {}).update(values)
    if record["format"] < 13 and config["train"]["lambda_schedule"] == "dann":  # a sigmoid, no better than 'linear'
        config["train"]["lambda_schedule"] = "linear"
        gone.append("train.lambda_schedule: 'dann'")
    return RunInfo(
        config=parse(config),
        image_shape=tuple(data["image_shape"]),
        class_names=tuple(data["class_names"]),
        num_train=data["num_train"],
        num_test=data["num_test"],
        fingerprint=data["fingerprint"],
        gone=tuple(gone),
    )
