"""One HTML page of one or several runs: pictures, curves, figures, settings. A pure reader of the run folders.

The page is one file without scripts; it needs no network and works from disk.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from infoae_jax.config import differences, to_dict
from infoae_jax.evaluation.record import read_evaluation
from infoae_jax.evaluation.table import table_rows
from infoae_jax.reports.page import data_uri, document, escape, save_page
from infoae_jax.runs.folder import RunInfo, read_info
from infoae_jax.runs.metrics import read_metrics

_COLOURS = 6  # series that the style sheet tells apart; more runs repeat them, dashed
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 360, 200, 46, 24, 10, 8  # of a chart, in its own units
Points = list[tuple[float, float]]


class _Run(NamedTuple):
    folder: Path
    name: str
    info: RunInfo
    record: dict[str, Any] | None
    samples: list[tuple[int, bytes]]  # epoch and PNG
    lines: list[dict[str, Any]]


def write_run_report(runs: Sequence[str | Path], out: str | Path) -> None:
    """Writes the page of `runs` to `out`.

    Raises:
      UserError: if a folder is no run, or `out` is a file that is no such page, or cannot be written.
    """
    save_page(render_run_report(runs), Path(out))


def render_run_report(runs: Sequence[str | Path]) -> str:
    """The page as text."""
    folders = [Path(run) for run in runs]
    resolved = [folder.resolve() for folder in folders]
    names = [folder.name for folder in resolved]
    if len(set(names)) < len(names):  # told apart by their parents
        names = [f"{folder.parent.name}/{folder.name}" for folder in resolved]
    loaded = [_load(name, folder) for name, folder in zip(names, folders, strict=True)]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    sections = [
        _header(loaded, title),
        _pictures(loaded),
        _figures(loaded),
        _progress(loaded),
        _curves(loaded),
        _settings(loaded),
    ]
    return document(title, "\n".join(filter(None, sections)))


def _load(name: str, folder: Path) -> _Run:
    info = read_info(folder)
    paths = sorted((folder / "samples").glob("epoch_*.png"))
    samples = [(int(path.stem.removeprefix("epoch_")), path.read_bytes()) for path in paths]
    return _Run(folder, name, info, read_evaluation(folder), samples, read_metrics(folder))


def _header(runs: list[_Run], title: str) -> str:
    cards = []
    for i, run in enumerate(runs):
        epochs = [line["epoch"] for line in run.lines if line["kind"] == "epoch"]
        state = "finished" if any(line["kind"] == "end" for line in run.lines) else "not finished"
        about = (
            f"{run.info.config.data.name}, {'x'.join(map(str, run.info.image_shape))}, bottleneck "
            f"{run.info.config.model.bottleneck}, lambda {run.info.config.train.lambda_adv:g}, "
            f"{max(epochs, default=0)} of {run.info.config.train.epochs} epochs, {state}"
        )
        tiles = "".join(
            f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
            for label, value, note in _headline(run)
        )
        if not tiles:
            tiles = f"<p>Not evaluated yet: <code>infoae evaluate {escape(str(run.folder))}</code></p>"
        head = f'<h2><i class="dot s{i % _COLOURS}"></i>{escape(run.name)}</h2><p>{escape(about)}</p>'
        cards.append(f'<section class="card">{head}<div class="tiles">{tiles}</div></section>')
    lead = "Style and content, apart: each image's style with the content of every class."
    return f'<header><h1>{escape(title)}</h1><p>{lead}</p></header><div class="runs">{"".join(cards)}</div>'


def _headline(run: _Run) -> list[tuple[str, str, str]]:
    figures = run.record["figures"] if run.record else {}
    tiles = []
    if found := figures.get("leakage"):
        tiles.append(("leakage", f"{found['probe_accuracy']:.1%}", f"chance {found['chance']:.1%}"))
    if found := figures.get("reconstruction"):
        tiles.append(("reconstruction", f"{found['mse']:.4f}", f"MSE; {found['psnr']:.1f} dB"))
    if found := figures.get("transfer"):
        trusted = "transfer" not in (run.record or {})["untrusted"]
        tiles.append(
            ("transfer", f"{found['transfer_accuracy']:.1%}", "read by judges" if trusted else "judges not trusted")
        )
    if found := figures.get("style"):
        chosen = [name for name in ("slant", "thickness", "background_l", "foreground_l") if name in found["r"]][:2]
        for name in chosen:
            value = found["r"][name]
            tiles.append(
                (name.replace("_l", " lightness"), "undefined" if value is None else f"{value:.2f}", "style kept, r")
            )
    if run.record and run.record["protocol"]["name"] != "full":
        tiles = [(label, value, f"{note} (quick)") for label, value, note in tiles]
    return tiles


def _pictures(runs: list[_Run]) -> str:
    cells = []
    for i, run in enumerate(runs):
        if run.samples:
            epoch, data = run.samples[-1]
            alt = f"Swaps of {run.name} after epoch {epoch}"
            cells.append(_picture(data, alt, f"{run.name}, epoch {epoch}", i))
    if not cells:
        return ""
    note = "First column: test images, each the style of its row. Then the same style with the content of every class."
    return f'<h2>Swaps</h2><p>{note}</p><div class="runs">{"".join(cells)}</div>'


def _progress(runs: list[_Run]) -> str:
    strips = []
    for i, run in enumerate(runs):
        cells = [_picture(d, f"Swaps of {run.name}, epoch {e}", f"epoch {e}", None) for e, d in run.samples]
        if len(cells) > 1:
            title = f'<h3><i class="dot s{i % _COLOURS}"></i>{escape(run.name)}</h3>' if len(runs) > 1 else ""
            strips.append(
                f'{title}<div class="strip" tabindex="0" role="region" aria-label="progress">{"".join(cells)}</div>'
            )
    return f"<h2>Training progress</h2><p>The same styles, epoch by epoch.</p>{''.join(strips)}" if strips else ""


def _picture(data: bytes, alt: str, caption: str, series: int | None) -> str:
    dot = "" if series is None else f'<i class="dot s{series % _COLOURS}"></i>'
    return (
        f'<figure><img alt="{escape(alt)}" src="{data_uri(data)}">'
        f"<figcaption>{dot}{escape(caption)}</figcaption></figure>"
    )


def _curves(runs: list[_Run]) -> str:
    def series(kind: str, name: str) -> list[tuple[int, Points]]:
        result = []
        for i, run in enumerate(runs):
            lines = [line for line in run.lines if line["kind"] == kind and isinstance(line.get(name), float)]
            if len(lines) > 1 and (name != "cycle" or any(line[name] for line in lines)):  # 0: not computed
                result.append((i, [(line["epoch"], line[name]) for line in lines]))
        return result

    charts = [
        _chart("reconstruction error (MSE), training", series("epoch", "reconstruction"), log=True),
        _chart("reconstruction error (MSE), test images", series("test", "reconstruction"), log=True),
        _chart("content classifier, share right (test)", series("test", "content_accuracy")),
        _chart("adversary, share right while training (not the leakage)", series("epoch", "adversary_accuracy")),
        _chart("lambda", series("epoch", "lambda")),
        _chart("alignment: its adversary, share right (its own epochs)", series("align", "adversary_accuracy")),
        _chart("alignment: look of swaps, error (its own epochs)", series("align", "style")),
        _chart("refinement: latents of pictures and swaps, error (its own epochs)", series("refine", "style")),
        _chart("refinement: image from pictures and swaps, error (its own epochs)", series("refine", "cycle")),
    ]
    charts = [chart for chart in charts if chart]
    return f'<h2>Curves</h2><p>By epoch.</p><div class="charts">{"".join(charts)}</div>' if charts else ""


def _figures(runs: list[_Run]) -> str:
    evaluated = [(i, run) for i, run in enumerate(runs) if run.record]
    if not evaluated:
        return ""
    columns = [(i, run.name, {(r.group, r.name): r for r in table_rows(run.record or {})}) for i, run in evaluated]
    keys: list[tuple[str, str]] = list(dict.fromkeys(key for _, _, rows in columns for key in rows))
    groups = list(dict.fromkeys(group for group, _ in keys))
    with_reference = any(row.reference for _, _, rows in columns for row in rows.values())
    head = "".join(f'<th scope="col"><i class="dot s{i % _COLOURS}"></i>{escape(name)}</th>' for i, name, _ in columns)
    head += '<th scope="col">elsewhere</th>' if with_reference else ""
    body = []
    for group in groups:
        span = 1 + len(columns) + with_reference
        body.append(f'<tr class="group"><th colspan="{span}" scope="rowgroup">{escape(group)}</th></tr>')
        for key in [key for key in keys if key[0] == group]:
            found = [rows.get(key) for _, _, rows in columns]
            cells = "".join(f"<td>{escape(row.value) if row else ''}</td>" for row in found)
            first = next(row for row in found if row)
            arrow = {"lower": " ↓", "higher": " ↑"}.get(first.better, "")
            reference = f'<td class="muted">{escape(first.reference)}</td>' if with_reference else ""
            body.append(f'<tr><th scope="row">{escape(key[1])}{arrow}</th>{cells}{reference}</tr>')
    protocols = {run.record["protocol"]["name"] for _, run in evaluated if run.record}
    note = f"Measured after training, on unseen images ({' and '.join(sorted(protocols))} protocol). "
    note += "↓ lower is better, ↑ higher."
    if len(protocols) > 1:
        note += " Figures of different protocols are not comparable."
    rows = "".join(body)
    return (
        f'<h2>Figures</h2><p>{note}</p><div class="scroll"><table><thead><tr><th scope="col">figure</th>{head}</tr>'
        "</thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _settings(runs: list[_Run]) -> str:
    parts = []
    for run in runs[1:]:
        found = differences(runs[0].info.config, run.info.config)
        text = "".join(f"<li><code>{escape(line)}</code></li>" for line in found) or "<li>nothing</li>"
        parts.append(f"<p>Different from {escape(runs[0].name)} in {escape(run.name)}:</p><ul>{text}</ul>")
    for run in runs:
        starts = [line for line in run.lines if line["kind"] == "start"]
        record = {
            "config": to_dict(run.info.config),
            "trained": [{k: line[k] for k in ("device", "time", "environment")} for line in starts],
        }
        if run.record:
            record["evaluated"] = {k: run.record[k] for k in ("protocol", "step", "environment", "cost")}
        text = escape(json.dumps(record, indent=2))
        summary = f"<summary>{escape(run.name)}: configuration, code version, cost</summary>"
        parts.append(f"<details>{summary}<pre>{text}</pre></details>")
    return f"<h2>Settings</h2>{''.join(parts)}"


def _chart(title: str, series: list[tuple[int, Points]], log: bool = False) -> str:
    """Lines over epochs as SVG; '' if there is nothing to draw."""
    values = [y for _, points in series for _, y in points if not log or y > 0]
    if not values:
        return ""
    epochs = [x for _, points in series for x, _ in points]
    x_low, x_high = min(epochs), max(max(epochs), min(epochs) + 1)
    scale = math.log10 if log else float
    ticks = _log_ticks(min(values), max(values)) if log else _ticks(min(values), max(values))
    y_low, y_high = scale(min(*values, *ticks)), scale(max(*values, *ticks))
    y_high = y_high if y_high > y_low else y_low + 1

    def across(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (scale(y) - y_low) / (y_high - y_low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{up(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in (tick for tick in _ticks(x_low, x_high) if x_low <= tick <= x_high):
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{tick:g}</text>')
    for i, points in series:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points if not log or y > 0)
        dashed = ' stroke-dasharray="5 3"' if i >= _COLOURS else ""
        parts.append(f'<polyline class="line s{i % _COLOURS}" points="{path}"{dashed}/>')
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers over [low, high]."""
    high = high if high > low else low + (abs(low) or 1.0)
    span = high - low
    unit = 10 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first = math.floor(low / step)
    return [round(step * i, 12) for i in range(first, math.ceil(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from the last one not above `low` to the first one not below `high`."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [round(factor * 10.0**e, 12) for e in exponents for factor in (1, 2, 5)]
    inside = [tick for tick in every if low < tick < high]
    below, above = max(t for t in every if t <= low), min(t for t in every if t >= high)
    return sorted({below, *inside, above})
