"""One HTML page of a sweep: what is gained for what, pictures side by side, all trials. A pure reader of their folders.

The page is one file that needs no network; without its script everything is there as well, but does not answer to the
pointer. The figures are written beside it as SVG and PNG.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from infoae_jax.errors import UserError
from infoae_jax.evaluation.table import HEADLINE, Metric, Reference, references
from infoae_jax.files import write_atomically
from infoae_jax.reports.page import data_uri, document, escape, save_page
from infoae_jax.reports.tradeoff import (
    MAKER,
    NARROW,
    PAPER,
    WIDE,
    Arrangement,
    arrange,
    as_png,
    as_svg,
    heat,
    in_page,
    title,
    tradeoff,
)
from infoae_jax.sweeps.results import (
    MSE_TOLERANCE,
    Setting,
    TrialResult,
    find_sweep,
    format_duration,
    group_by_setting,
    rank_settings,
    write_results,
)
from infoae_jax.sweeps.trials import format_value, short_name

_STATES = {"new": "not begun", "trained": "not evaluated"}


def write_sweep_report(run: str | Path, out: str | Path | None = None, within: float = MSE_TOLERANCE) -> Path:
    """Writes `sweep.jsonl`, the page (`report.html` beside it, or `out`) and the folder `figures` into the sweep.

    Args:
      run: the sweep's folder, or the one it lies in.
      within: share by which the MSE of the recommended setting may exceed the best one.

    Returns:
      Where the page is.

    Raises:
      UserError: if there are no trials, or something of the user's is in the way.
    """
    folder, lines = find_sweep(run)
    write_results(folder, lines)
    found = group_by_setting(lines)
    page = Path(out) if out else folder / "report.html"
    save_page(render_sweep_report(folder, lines, within), page)
    if found:
        _write_figures(folder / "figures", found, [line for line in lines if line.reason], within)
    return page


def render_sweep_report(folder: Path, lines: Sequence[TrialResult], within: float = MSE_TOLERANCE) -> str:
    """The page as text."""
    found = group_by_setting(lines)
    best = next(iter(rank_settings(found, within)), None)
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name == "sweep" else resolved.name
    numbers = {setting.name: i for i, setting in enumerate(found)}
    pictures = {line.name: picture for line in lines if (picture := _picture(folder / line.name))}
    sections = [_header(name, folder, lines, best, within)]
    if best is not None:
        sections += [_tradeoff(found, numbers, best, within), _swaps(found, numbers, best, pictures)]
        sections += [_maps(found, numbers, best, lines)]
    sections += [_table(lines, found, numbers, best), _failures(lines)]
    style, script = (Path(__file__).with_suffix(kind).read_text() for kind in (".css", ".js"))
    return document(f"{name}, sweep", "\n".join(filter(None, sections)), style, script if best else "")


def _header(name: str, folder: Path, lines: Sequence[TrialResult], best: Setting | None, within: float) -> str:
    states = [line.state for line in lines]
    counts = ", ".join(f"{states.count(state)} {_STATES.get(state, state)}" for state in dict.fromkeys(states))
    head = f"<header><h1>{escape(name)}, sweep</h1><p>{len(lines)} trials begun: {counts}.</p></header>"
    if best is None:
        return f"{head}<p>No trial is finished and evaluated yet.</p>"
    tiles = "".join(
        f'<div class="tile"><span>{escape(figure.title)}</span><b>{escape(figure.write(value))}</b>'
        f"<small>{escape(_note(best, figure))}</small></div>"
        for figure in HEADLINE[:4]
        if (value := best.mean(figure.name)) is not None
    )
    rule = (
        f"Recommended by this rule: the lowest leakage among the settings whose MSE is at most {within:.0%} above the "
        f"lowest one, both as means over seeds."
    )
    full = [f"{f.title} {f.write(value)}" for f in HEADLINE[:4] if (value := best.full(f.name)) is not None]
    last = f"Measured in full: {escape(', '.join(full))}."
    if not full and best.trials[0].protocol != "full":
        last = (
            "To measure it in full, for publication: "
            f"<code>infoae evaluate --sweep {escape(str(folder))} --best 1</code>"
        )
    elif not full:
        last = "These are figures of the full evaluation."
    return (
        f'{head}<section class="card best"><h2>{_breaking(best.name)}</h2><p>{rule}</p><div class="tiles">{tiles}</div>'
        f"<p>{last}</p></section>"
    )


def _note(setting: Setting, figure: Metric) -> str:
    seeds = len(setting.trials)
    about = [f"± {figure.write(setting.spread(figure.name))} over {seeds} seeds"] if seeds > 1 else ["one seed"]
    if figure.name == "probe_accuracy" and setting.trials[0].chance is not None:
        about.insert(0, f"chance {setting.trials[0].chance:.1%}")
    if setting.trials[0].protocol != "full":
        about.append(f"{setting.trials[0].protocol} protocol")
    if figure.name in setting.trials[0].untrusted:
        about.append("judges not trusted")
    return ", ".join(about)


def _tradeoff(found: list[Setting], numbers: dict[str, int], best: Setting, within: float) -> str:
    arrangement = arrange(found)
    references = _references(found)
    label = "Leakage against reconstruction error"
    drawn = "".join(
        in_page(tradeoff(arrangement, numbers, best, references, size), kind, label, kind)
        for kind, size in (("wide", WIDE), ("narrow", NARROW))
    )
    along = f"{title(arrangement.along)} changes along each curve. " if arrangement.along else ""
    note = (
        f"Down and left is better. {along}Bars: standard deviation over seeds; small dots: single seeds; ringed: "
        f"the recommended setting. Point at a setting to see it; a click puts it side by side with others below."
    )
    return f'<h2>Trade-off</h2><p>{escape(note)}</p><div class="figure">{drawn}<div class="tip" hidden></div></div>' + (
        _by_series(arrangement, within)
    )


def _by_series(arrangement: Arrangement, within: float) -> str:
    """The rule within each curve, since a larger latent always has the lower error."""
    if len(arrangement.series) < 2 or arrangement.along is None:
        return ""
    items = []
    for series in arrangement.series:
        best = rank_settings(series.settings, within)[0]
        figures = ", ".join(f"{f.title} {f.write(best.mean(f.name))}" for f in HEADLINE[:2])
        value = f"{title(arrangement.along)} {format_value(best.values.get(arrangement.along))}"
        items.append(f"<li>{escape(series.label)}: <b>{escape(value)}</b> ({escape(figures)})</li>")
    return f'<p class="after">By the same rule within each curve:</p><ul>{"".join(items)}</ul>'


def _swaps(found: list[Setting], numbers: dict[str, int], best: Setting, pictures: dict[str, bytes]) -> str:
    """A card for each trial with a picture; the script shows those that are chosen, at first the chief ones."""
    if not pictures:
        return ""
    first: dict[str, list[str]] = {best.name: ["recommended"]}
    for figure, badge in (("mse", "lowest error"), ("probe_accuracy", "lowest leakage")):
        least = min(found, key=lambda s: s.mean(figure) or 0.0)
        first.setdefault(least.name, []).append(badge)
    cards = []
    for setting in found:
        for i, line in enumerate(setting.trials):
            if line.name not in pictures:
                continue
            about = ", ".join(f"{f.title} {f.write(line.figures.get(f.name))}" for f in HEADLINE[:3])
            badges = first.get(setting.name, []) if i == 0 else []
            cards.append(
                f'<figure class="card swap" data-trial="{escape(line.name)}" data-setting="{numbers[setting.name]}"'
                f"{' data-first' if badges else ''}><figcaption><b>{_breaking(line.name)}</b>"
                f"{''.join(f'<i>{badge}</i>' for badge in badges)}<br>{escape(about)}</figcaption>"
                f'<img alt="Swaps of {escape(line.name)}" src="{data_uri(pictures[line.name], "webp")}">'
                f'<button class="drop" aria-label="remove {escape(line.name)}">&times;</button></figure>'
            )
    note = (
        "First column: test images, each the style of its row. Then the same style with the content of every class. "
        "Click points, cells or rows to add and remove trials."
    )
    return f'<h2>Swaps side by side</h2><p>{note}</p><div class="runs" id="swaps">{"".join(cards)}</div>'


def _maps(found: list[Setting], numbers: dict[str, int], best: Setting, lines: Sequence[TrialResult]) -> str:
    arrangement = arrange(found)
    failed = [line for line in lines if line.reason]
    maps = []
    for figure in HEADLINE:
        drawing = heat(arrangement, numbers, best, figure, failed)
        if drawing is not None:
            svg = in_page(drawing, f"map-{figure.name}", figure.title)
            better = {"lower": "↓", "higher": "↑"}[figure.better]
            maps.append(f"<figure><figcaption>{escape(figure.title)} {better}</figcaption>{svg}</figure>")
    note = (
        "Means over seeds; the stronger the colour, the better (↓ lower, ↑ higher); framed: the recommended setting; "
        "dashed: those chosen above."
    )
    return f'<h2>Maps</h2><p>{note}</p><div class="charts">{"".join(maps)}</div>'


def _table(lines: Sequence[TrialResult], found: list[Setting], numbers: dict[str, int], best: Setting | None) -> str:
    fields = list(dict.fromkeys(field for line in lines for field in line.values))
    figures = [f for f in HEADLINE if any(line.figures.get(f.name) is not None for line in lines)]
    heads = [short_name(field) for field in fields] + ["state"]
    arrows = {"lower": "\u00a0↓", "higher": "\u00a0↑"}
    in_full = [f for f in HEADLINE[:2] if any(line.full.get(f.name) is not None for line in lines)]
    heads += [f.title + arrows[f.better] for f in figures] + ["protocol"]
    heads += [f"{f.title} in full" for f in in_full] + ["training"]
    head = "".join(f'<th scope="col"><button>{escape(text)}</button></th>' for text in heads)
    number_of = {line.name: numbers[setting.name] for setting in found for line in setting.trials}
    recommended = {line.name for line in best.trials} if best else set()
    rows = []
    for line in lines:
        cells = [_cell(line.values.get(field), format_value(line.values.get(field, ""))) for field in fields]
        state = _STATES.get(line.state, line.state)
        cells.append(_cell(state, state + (" ★" if line.name in recommended else "")))
        cells += [_cell(line.figures.get(f.name), f.write(line.figures.get(f.name))) for f in figures]
        seconds = line.training_s
        cells += [_cell(line.protocol, line.protocol)]
        cells += [_cell(line.full.get(f.name), f.write(line.full.get(f.name))) for f in in_full]
        cells += [_cell(seconds, "" if seconds is None else format_duration(seconds))]
        number = number_of.get(line.name)
        data = "" if number is None else f' data-trial="{escape(line.name)}" data-setting="{number}" tabindex="0"'
        rows.append(f"<tr{data}>{''.join(cells)}</tr>")
    note = "★ recommended. A click on a heading sorts, one on a row shows its swaps."
    if in_full:
        note += " Figures in full stand beside those that are compared, which are all of one protocol."
    if any(line.state == "finished" and not line.protocol for line in lines):
        protocol = next((line.protocol for line in lines if line.protocol), "")
        note += f" Trials without an evaluation by the {protocol} protocol, which most have, are not compared."
    if any(line.untrusted for line in lines):
        names = dict.fromkeys(name for line in lines for name in line.untrusted)
        note += f" Judges below their bar: {', '.join(names)} not to be trusted."
    return (
        f'<h2>Trials</h2><p>{escape(note)}</p><div class="scroll"><table id="trials"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: Any, text: str) -> str:
    number = isinstance(value, int | float)
    return f'<td data-v="{value if number else escape(str(value or ""))}">{escape(text)}</td>'


def _breaking(name: str) -> str:
    """A name that breaks at its commas where it is too long."""
    return escape(name).replace(",", ",<wbr>")


def _failures(lines: Sequence[TrialResult]) -> str:
    failed = [line for line in lines if line.reason]
    if not failed:
        return ""
    items = "".join(
        f"<details open><summary>{escape(line.name)}: {line.state}</summary><pre>{escape(line.reason)}</pre></details>"
        for line in failed
    )
    return f"<h2>Trials that gave nothing</h2>{items}"


def _references(found: list[Setting]) -> list[Reference]:
    lines = [line for setting in found for line in setting.trials]
    return references(lines[0].data, {line.bottleneck for line in lines})


def _picture(folder: Path) -> bytes | None:
    """The newest swaps of a run as WebP, at the size of its images: a page holds many."""
    paths = sorted((folder / "samples").glob("epoch_*.png"))
    if not paths:
        return None
    with Image.open(paths[-1]) as picture:
        small = picture.convert("RGB").resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85, method=4)
    return buffer.getvalue()


def _write_figures(folder: Path, found: list[Setting], failed: list[TrialResult], within: float) -> None:
    arrangement = arrange(found)
    numbers = {setting.name: i for i, setting in enumerate(found)}
    best = rank_settings(found, within)[0]
    drawings = {"tradeoff": tradeoff(arrangement, numbers, best, _references(found), PAPER)}
    for figure in HEADLINE:
        drawing = heat(arrangement, numbers, best, figure, failed)
        if drawing is not None:
            drawings[f"map_{figure.name}"] = drawing
    try:
        folder.mkdir(exist_ok=True)
        for name, drawing in drawings.items():
            for kind, content in (("svg", as_svg(drawing).encode()), ("png", as_png(drawing))):
                path = folder / f"{name}.{kind}"
                if path.exists() and MAKER.encode() not in path.read_bytes():
                    raise UserError(f"{str(path)!r} exists and is no figure of this package. Move it away.")
                write_atomically(path, content)
    except OSError as error:
        raise UserError(f"The figures cannot be written to {str(folder)!r} ({error}).") from error
