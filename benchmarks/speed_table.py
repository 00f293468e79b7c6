"""Tables of the measurements in speed.jsonl, for `speed.py table`."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from infoae_jax.types import Json

KEYS = ("task", "shape", "batch", "device", "layer", "what", "config", "model", "networks")  # tell measurements apart


def table(path: Path, tasks: Mapping[str, Sequence[int]], shapes: Collection[str]) -> str:
    """Formats the newest line of each measurement as Markdown.

    Args:
      path: the file with the lines.
      tasks: batch sizes of each task of `speed.py step`.
      shapes: names of the image shapes, a column each.
    """
    lines: dict[tuple[str | int | None, ...], Json] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        lines[line["command"], *(line.get(key) for key in KEYS)] = line
    text = ["| what | " + " | ".join(shapes) + " |", "|---|---|---|"]
    names = {"train": "training step", "train_all": "training step, all of it in PyTorch too"}
    for task, batches in tasks.items():
        for batch in batches:
            row = [lines.get(("step", task, shape, batch, *6 * (None,))) for shape in shapes]
            if any(row):
                cells = " | ".join(_with_quartiles(line) if line else "" for line in row)
                text.append(f"| {names.get(task, f'`{task}`')}, batch {batch} | {cells} |")
    for key, line in lines.items():
        if key[0] == "loop":
            text += ["", f"Whole loop against the bare step: {line['ratio']:.2f}."]
        elif key[0] == "use":
            text += [
                "",
                f"{line['batch']:,} transfers against the bare networks, {line['shape']}: {line['ratio']:.2f}.",
            ]
        elif key[0] == "start":
            text += [
                "",
                f"{line['config']}: first step after {line['cold_s']:.0f} s cold, {line['warm_s']:.0f} s warm.",
            ]
        elif key[0] == "demo":
            text += [
                "",
                f"`infoae demo {line['model']}`: ready after {line['start_s']:.0f} s; from a stroke to all classes "
                f"{line['answer_ms']:.0f} ms, at most {line['slowest_ms']:.0f}.",
            ]
        elif key[0] == "scaling":
            each = zip(line["ratios"], line["quartiles"], strict=True)
            found = ", ".join(f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, (low, high) in each)
            text += ["", f"A step of {line['networks']} networks with {line['images']} images, relative: {found}."]
    every = [line for line in lines.values() if line["command"] == "layers"]
    if every:
        text += ["", "| layer | " + " | ".join(line["what"] for line in every[:3]) + " |", "|---|---|---|---|"]
        for i in range(0, len(every), 3):
            ratios = [f"{line['ratio']:.2f} ({line['share_of_peak']:.0%})" for line in every[i : i + 3]]
            text.append(f"| {every[i]['layer']} | {' | '.join(ratios)} |")
    measured = [line for line in lines.values() if line["command"] == "ways"]
    for device in dict.fromkeys(line["device"] for line in measured):
        by_layer: dict[str, dict[str, float]] = {}
        for line in measured:
            if line["device"] == device:
                by_layer.setdefault(line["layer"], {}).update(line["ratios"])
        ways = list(dict.fromkeys(way for layer in by_layer.values() for way in layer))
        text += [
            "",
            f"Share of flax's time on {device}:",
            "",
            f"| layer | {' | '.join(ways)} |",
            "|---" * (len(ways) + 1) + "|",
        ]
        for name, layer in by_layer.items():
            text.append(f"| {name} | " + " | ".join(f"{layer[w]:.2f}" if w in layer else "" for w in ways) + " |")
    if len({json.dumps(line["environment"]) for line in lines.values()}) > 1:
        text += ["", "(measured with more than one version of the code or the packages: see the file)"]
    return "\n".join(text)


def _with_quartiles(line: Json) -> str:
    low, high = line["quartiles"]
    return f"{line['ratio']:.2f} ({low:.2f} to {high:.2f})"
