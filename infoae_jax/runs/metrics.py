"""metrics.jsonl, to which a run only ever appends: one JSON object a line.

The 'kind' of a line is 'start' (a process began: versions, device, code), the name of a phase (means over an epoch),
the same with '_step' (metrics of one step), 'test' (figures on the test split), 'stop', 'diverged' or 'end'.
"""

import datetime
import json
import math
import os
import warnings
from pathlib import Path
from typing import Annotated, TypeAlias, TypedDict

import msgspec

from infoae_jax.errors import UserError
from infoae_jax.files import explain, read_regular
from infoae_jax.runs.provenance import Environment
from infoae_jax.types import Json

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Line(TypedDict):
    kind: str
    step: Number


class _Epoch(_Line):
    epoch: Number


class _Mark(_Line):
    time: Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class _Start(_Mark):
    device: str
    environment: Environment


_KINDS: dict[object, type[_Line]] = {
    **dict.fromkeys(("test", "autoencoder", "alignment", "refinement"), _Epoch),
    "start": _Start,
    "stop": _Mark,
    "end": _Mark,
}  # what lines of these kinds must hold; all others must be a `_Line`
_UNREPEATED_KINDS = "start", "stop", "diverged", "end"  # all others a run that was killed writes again


def append_metrics(folder: Path, kind: str, **values: object) -> None:
    """Appends a line of `kind`; numbers that are not finite become text ('nan', 'inf'), as JSON has none."""
    tidy = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    line = json.dumps({"kind": kind, **tidy}, allow_nan=False)
    with open(folder / "metrics.jsonl", "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last process was killed in the middle of a line
                line = "\n" + line
        file.write((line + "\n").encode())


def read_metrics(folder: str | Path, kind: str | None = None) -> list[Json]:
    """The lines in the order of writing, those of `kind` or all of them; none if there is no such file.

    A run that was killed repeats what followed its last checkpoint, so the last line of each kind and step counts.
    Lines that cannot be read are left out: with a warning, but for those cut off when a process was killed.

    Raises:
      UserError: if the file cannot be read.
    """
    path = Path(folder) / "metrics.jsonl"
    try:
        texts = read_regular(path).splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({explain(error)}). Move it away, or repair it.") from error
    lines: dict[object, Json] = {}
    unread: list[int] = []
    for number, text in enumerate(texts, 1):
        try:
            line = msgspec.json.decode(text, type=Json)
            msgspec.convert(line, _KINDS.get(line.get("kind"), _Line))
        except (ValueError, RecursionError, TypeError) as error:  # TypeError: a kind that is a list
            unread += [] if "truncated" in str(error) else [number]
        else:
            lines[number if line["kind"] in _UNREPEATED_KINDS else (line["kind"], line["step"])] = line
    if unread:
        count = f"{len(unread)} lines" if len(unread) > 1 else "a line"
        warnings.warn(f"{path}: left out {count} that cannot be read, such as line {unread[0]}.", stacklevel=2)
    return [line for line in lines.values() if kind in (None, line["kind"])]
