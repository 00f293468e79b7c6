"""The page about one run or several: swaps, progress, curves, figures and settings, read from the run folders."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from infoae_jax.config import differences, to_dict
from infoae_jax.evaluation.record import Record, read_evaluation
from infoae_jax.evaluation.table import HEADLINE, Row, table_rows
from infoae_jax.files import user_path
from infoae_jax.reports.charts import SERIES, Scale, as_markup, line_chart
from infoae_jax.reports.page import GENERATOR, data_uri, read_sheets, render_page, replace_own
from infoae_jax.runs.folder import RunInfo, read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.types import Json

# Title, kind of the lines in metrics.jsonl, what to read there, scale, title of the axis.
_CURVES: tuple[tuple[str, str, str, Scale, str], ...] = (
    ("Reconstruction error (MSE), training images", "autoencoder", "reconstruction", "log", "MSE"),
    ("Reconstruction error (MSE), test images", "test", "reconstruction", "log", "MSE"),
    ("Content classifier: accuracy on test images", "test", "content_accuracy", "percent", "accuracy"),
    (
        "Swaps: how often the content classifier reads the class asked for",
        "autoencoder",
        "swap_accuracy",
        "percent",
        "accuracy",
    ),
    ("Adversary: accuracy in training (not the leakage)", "autoencoder", "adversary_accuracy", "percent", "accuracy"),
    ("Lambda: how strongly the class is hidden", "autoencoder", "lambda", "linear", "lambda"),
    ("Alignment: accuracy of its adversary", "alignment", "adversary_accuracy", "percent", "accuracy"),
    ("Alignment: error of the swaps' appearance features", "alignment", "style", "linear", "error"),
    ("Refinement: error of style latents, encoded again", "refinement", "style", "linear", "error"),
    ("Refinement: error of images after a swap and back", "refinement", "cycle", "linear", "error"),
)


class Run(NamedTuple):
    """What a run folder holds."""

    name: str  # on the page
    colour: str  # there, as a class of the style sheet
    folder: Path
    info: RunInfo
    lines: list[Json]  # of metrics.jsonl
    record: Record | None  # the evaluation
    samples: dict[int, str]  # sheets of swaps as data URIs, by epoch

    def of_kind(self, kind: str) -> list[Json]:
        """Its lines of this kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def details(self) -> str:
        """Configuration, versions and costs, as JSON."""
        starts = [{key: line[key] for key in ("device", "time", "environment")} for line in self.of_kind("start")]
        result: Json = {"config": to_dict(self.info.config), "trained": starts}
        if record := self.record:
            result["evaluated"] = {key: record[key] for key in ("protocol", "step", "environment", "cost")}
        return json.dumps(result, indent=2)


def write_run_report(runs: Sequence[str | Path], out: str | Path) -> None:
    """Writes the page about the runs in these folders to `out`.

    Raises:
      UserError: if a folder holds no run, or `out` is a file that is not such a page, or cannot be written.
    """
    folders = [user_path(run, "run") for run in runs]
    resolved = [folder.resolve() for folder in folders]
    names = [folder.name for folder in resolved]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in resolved]
    colours = [f"s{i % len(SERIES)}" + (" dashed" if i >= len(SERIES) else "") for i in range(len(names))]
    loaded = [_load(*each) for each in zip(names, colours, folders, strict=True)]
    evaluated = [run for run in loaded if run.record]
    columns = [{(row.group, row.name): row for row in table_rows(run.record)} for run in evaluated if run.record]
    table: dict[str, dict[str, list[Row | None]]] = {}  # by group and name, for each evaluated run
    for group, name in dict.fromkeys(key for rows in columns for key in rows):
        table.setdefault(group, {})[name] = [rows.get((group, name)) for rows in columns]
    text = render_page(
        "run.html",
        [differences],
        title=f"{' and '.join(names) if len(names) < 3 else f'{len(names)} runs'}: {_subject(loaded)}",
        runs=loaded,
        evaluated=evaluated,
        table=table,
        has_references=any(row.reference for rows in columns for row in rows.values()),
        headline=HEADLINE[:4],
        curves=_curves(loaded),
    )
    replace_own(user_path(out, "out"), text, GENERATOR, "Choose another --out.")


_MAX_CHARTED = 1e30  # beyond it there are no ticks


def _subject(runs: list[Run]) -> str:
    """The data sets of the runs, and the protocols by which they were measured."""
    data = dict.fromkeys(run.info.config.data.name for run in runs)
    protocols = dict.fromkeys(f"{run.record['protocol']['name']} protocol" for run in runs if run.record)
    return ", ".join([*data, *protocols])


def _load(name: str, colour: str, folder: Path) -> Run:
    info = read_info(folder)
    samples = {epoch: data_uri(sheet, "png") for epoch, sheet in sorted(read_sheets(folder))}
    return Run(name, colour, folder, info, read_metrics(folder), read_evaluation(folder), samples)


def _curves(runs: list[Run]) -> dict[str, tuple[Markup, list[Run]]]:
    """Charts by title, each with the runs that it shows."""
    curves: dict[str, tuple[Markup, list[Run]]] = {}
    for title, kind, name, scale, quantity in _CURVES:
        found = {}
        for number, run in enumerate(runs):
            points = [(line["epoch"], y) for line in run.of_kind(kind) if isinstance(y := line.get(name), float)]
            points = [(x, y) for x, y in points if abs(y) < _MAX_CHARTED and (y > 0 or scale != "log")]
            if len(points) > 1 and (
                name not in ("cycle", "swap_accuracy") or any(y for _, y in points)
            ):  # 0: without this loss
                found[number] = points
        if found:
            curves[title] = (
                as_markup(line_chart(found, scale, quantity), f"curve-{len(curves)}"),
                [runs[i] for i in found],
            )
    return curves
