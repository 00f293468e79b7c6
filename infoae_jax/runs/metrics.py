"""metrics.jsonl, to which a run only ever appends: one JSON object a line.

The 'kind' of a line is 'start' (a process began: versions, device, code), the name of a phase (means over an epoch),
the same with '_step' (metrics of one step), 'test' (figures on the test split), 'stop', 'diverged' or 'end'.
"""

import contextlib
import json
import math
import os
from pathlib import Path

from infoae_jax.types import Json

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
    A line that was cut off is left out.
    """
    path = Path(folder) / "metrics.jsonl"
    lines: dict[object, Json] = {}
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else []):
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            lines[number if line["kind"] in _UNREPEATED_KINDS else (line["kind"], line["step"])] = line
    return [line for line in lines.values() if kind in (None, line["kind"])]
