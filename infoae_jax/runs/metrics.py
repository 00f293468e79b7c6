"""The metrics of a run: metrics.jsonl, only ever appended to."""

import json
import math
import os
from pathlib import Path
from typing import Any

_REPEATED = ("step", "epoch", "test", "align", "refine")  # kinds of lines that a run which was killed writes again


def append_metrics(folder: Path, kind: str, **values: Any) -> None:
    """Appends one line to metrics.jsonl. Numbers that JSON has no word for are written as text ('nan', 'inf')."""
    tidy = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    line = json.dumps({"kind": kind, **tidy}, allow_nan=False)
    with open(folder / "metrics.jsonl", "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the process before this one died in the middle of a line
                line = "\n" + line
        file.write((line + "\n").encode())


def read_metrics(folder: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in the order of writing, each fact once.

    A run that was killed repeats what came after its last checkpoint, so the last line of a (kind, step) counts. A
    line that was cut off is left out.
    """
    path = Path(folder) / "metrics.jsonl"
    lines: dict[Any, dict[str, Any]] = {}
    for i, text in enumerate(path.read_text().splitlines() if path.exists() else []):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        key = (line["kind"], line["step"]) if line["kind"] in _REPEATED else i
        lines[key] = line
    return [line for line in lines.values() if kind in (None, line["kind"])]
