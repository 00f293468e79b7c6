"""Figures of a sweep, for its page and for papers: what leaks against the error, and maps over two swept fields.

A page's copy takes its colours from the page, so that it follows a light or dark theme, and what a reader can point at
carries `data-pick` with the number of its setting.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from infoae_jax.evaluation.table import Metric, Reference
from infoae_jax.sweeps.results import Setting, TrialResult
from infoae_jax.sweeps.trials import format_value, short_name

LAMBDA = "train.lambda_adv"
MAKER = "infoae_jax"  # stands in every file, so that a user's own is told apart
# The colours of the pages' light theme, by the name that each has there.
_COLOURS = {"ink": "#1d1f21", "muted": "#666b70", "rule": "#dddcd6", "card": "#ffffff"}
_SERIES = ("#2563a8", "#c2571a", "#2c7d4f", "#8a4fa3", "#a8842a", "#b03a5b")
_INK, _MUTED, _RULE, _CARD = _COLOURS.values()
_MARKERS = "osD^v"  # from the seventh series on, colours come again
WIDE, NARROW, PAPER = (10.4, 5.0), (4.4, 4.6), (6.6, 4.2)  # inches
_TITLES = {LAMBDA: "λ"}


class Series(NamedTuple):
    """Settings along one curve, by the value of the field along it."""

    label: str
    settings: list[Setting]


class Arrangement(NamedTuple):
    """along: the field whose value changes along a curve; None if no number is swept. others: tell the curves apart."""

    along: str | None
    others: list[str]
    series: list[Series]

    def columns(self, failed: Sequence[TrialResult]) -> list[Any]:
        """Values of `along`, those of failed trials too, in order; [None] if there is no such field."""
        if self.along is None:
            return [None]
        found = {s.values.get(self.along) for series in self.series for s in series.settings}
        found |= {line.values.get(self.along) for line in failed if line.values}
        return sorted(found, key=lambda value: -math.inf if value is None else value)


def arrange(settings: Sequence[Setting]) -> Arrangement:
    """lambda along the curves, or else the first number that is swept; a curve for each value of the other fields."""
    fields = dict.fromkeys(field for setting in settings for field in setting.values)
    swept = [field for field in fields if len({repr(s.values.get(field)) for s in settings}) > 1]
    numbers = [f for f in swept if all(isinstance(s.values.get(f, 0), int | float) for s in settings)]
    along = LAMBDA if LAMBDA in numbers else next(iter(numbers), None)
    others = [field for field in swept if field != along]
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        found.setdefault(_label(others, setting.values), []).append(setting)
    if along is not None:
        for members in found.values():
            members.sort(key=lambda s: s.values.get(along, -math.inf))
    return Arrangement(along, others, [Series(label, members) for label, members in found.items()])


def _label(fields: Sequence[str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{title(field)} {format_value(values.get(field))}" for field in fields)


def _cell_of(arrangement: Arrangement, columns: Sequence[Any], values: Mapping[str, Any]) -> tuple[int, int] | None:
    """Row and column of a map; None if it has none for these values."""
    labels = [series.label for series in arrangement.series]
    label, column = _label(arrangement.others, values), values.get(arrangement.along or "")
    return (labels.index(label), columns.index(column)) if label in labels and column in columns else None


def title(field: str) -> str:
    return _TITLES.get(field, short_name(field).replace("_", " "))


def tradeoff(
    arrangement: Arrangement,
    numbers: dict[str, int],
    best: Setting | None,
    references: Sequence[Reference],
    size: tuple[float, float] = WIDE,
) -> Figure:
    """Leakage against MSE: a curve for each series, seeds as dots with their standard deviation, other systems.

    Args:
      numbers: of settings by name, for `data-pick`.
      best: is marked.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor=_CARD)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=_CARD)
    settings = [setting for series in arrangement.series for setting in series.settings]
    chance = next((line.chance for s in settings for line in s.trials if line.chance is not None), None)
    _frame(axes, settings, chance)
    for i, series in enumerate(arrangement.series):
        colour, marker = _SERIES[i % len(_SERIES)], _MARKERS[i // len(_SERIES) % len(_MARKERS)]
        points = [(s.mean("mse") or 0.0, s.mean("probe_accuracy") or 0.0) for s in series.settings]
        axes.plot(*zip(*points, strict=True), "-", color=colour, linewidth=1.6, zorder=3)
        axes.plot([], [], marker=marker, color=colour, label=series.label, markersize=5, linewidth=1.6)
        for setting, (x, y) in zip(series.settings, points, strict=True):
            if len(setting.trials) > 1:
                seeds = [(line.figures["mse"], line.figures["probe_accuracy"]) for line in setting.trials]
                axes.plot(*zip(*seeds, strict=True), ".", color=colour, alpha=0.4, markersize=4, zorder=2)
                errors: dict[str, Any] = {"xerr": setting.spread("mse"), "yerr": setting.spread("probe_accuracy")}
                axes.errorbar(x, y, **errors, color=colour, linewidth=1, capsize=2.5, alpha=0.75, zorder=2)
            (point,) = axes.plot(x, y, marker, color=colour, markersize=7, markeredgecolor=_CARD, zorder=5)
            point.set_gid(f"pick-{numbers[setting.name]}")
        if best in series.settings:
            x, y = points[series.settings.index(best)]
            axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=_INK, zorder=4)
    beyond = _references(axes, references, chance)
    figure.draw_without_rendering()  # lays it out: labels need to know where the points are
    _labels(axes, arrangement)
    if beyond:
        axes.annotate(
            "beyond the frame →\n" + "\n".join(beyond),
            (1, 1),
            xycoords="axes fraction",
            xytext=(-4, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=_MUTED,
            linespacing=1.4,
        )
    if any(series.label for series in arrangement.series):
        columns = 3 if size == NARROW else 6
        legend = figure.legend(
            loc="outside upper left", ncols=columns, frameon=False, fontsize=9, labelcolor=_INK, handlelength=1.6
        )
        legend.set_in_layout(True)
    return figure


def heat(
    arrangement: Arrangement,
    numbers: dict[str, int],
    best: Setting | None,
    figure: Metric,
    failed: Sequence[TrialResult] = (),
) -> Figure | None:
    """One chief figure over the field along the curves and the series: strong colour where it is good.

    failed: trials that gave nothing; a cell without a figure says so. None where no setting has the figure.
    """
    heads = arrangement.columns(failed)
    every = [setting for series in arrangement.series for setting in series.settings]
    by_cell = {at: setting for setting in every if (at := _cell_of(arrangement, heads, setting.values)) is not None}
    values = {cell: setting.mean(figure.name) for cell, setting in by_cell.items()}
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    rows, columns = len(arrangement.series), len(heads)
    drawing = Figure(figsize=(4.4, 0.42 * rows + 0.9), layout="constrained", facecolor=_CARD)
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot(facecolor=_CARD)
    low, high = min(known), max(known)
    for (row, column), value in values.items():
        if value is None:
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        good = 1 - share if figure.better == "lower" else share
        chosen = by_cell[row, column] is best
        cell = Rectangle(
            (column + 0.04, row + 0.05), 0.92, 0.9, facecolor=_SERIES[0], alpha=0.06 + 0.54 * good, linewidth=0
        )
        cell.set_gid(f"pick-{numbers[by_cell[row, column].name]}")
        axes.add_patch(cell)
        if chosen:
            outline: dict[str, Any] = {"fill": False, "edgecolor": _INK, "linewidth": 1.4}
            axes.add_patch(Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, **outline))
        small = 8 if columns < 8 else 6.5
        text = figure.write(value)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=small, color=_INK)
    for line in failed:
        place = _cell_of(arrangement, heads, line.values)
        if place is not None and place not in by_cell:
            where = place[1] + 0.5, place[0] + 0.5
            axes.text(*where, line.state, ha="center", va="center", fontsize=7, color=_MUTED, style="italic")
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    named = [format_value(value) for value in heads] if arrangement.along else [""]
    axes.set_xticks([c + 0.5 for c in range(columns)], named)
    labels = [series.label for series in arrangement.series]
    if len(arrangement.others) == 1:  # the field's name stands beside the axis
        labels = [format_value(series.settings[0].values.get(arrangement.others[0])) for series in arrangement.series]
        axes.set_ylabel(title(arrangement.others[0]), color=_MUTED, fontsize=9)
    axes.set_yticks([r + 0.5 for r in range(rows)], labels)
    if arrangement.along:
        axes.set_xlabel(title(arrangement.along), color=_MUTED, fontsize=9)
    axes.tick_params(length=0, labelcolor=_MUTED, labelsize=8.5)
    axes.spines[:].set_visible(False)
    return drawing


def as_svg(figure: Figure, salt: str = MAKER) -> str:
    """The figure as a file of its own; text stays text. The same figure gives the same file."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": MAKER})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": MAKER})
    return buffer.getvalue()


def in_page(figure: Figure, salt: str, label: str, kind: str = "") -> str:
    """The figure as a part of a page. `salt` keeps its names apart from other figures'; kind: its class there."""
    text = as_svg(figure, salt)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None  # matplotlib always writes one
    head = f'<svg class="{kind}" {view[0]} role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    text = re.sub(r'id="pick-(\d+)"', r'data-pick="\1"', head + text[text.index(">") + 1 :])
    used = set(re.findall(r"#([\w-]+)", text))  # other names would be those of several figures on the page
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    names = _COLOURS | {f"s{i}": colour for i, colour in enumerate(_SERIES)}
    for name, colour in names.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _frame(axes: Axes, settings: Sequence[Setting], chance: float | None) -> None:
    """Ranges and ticks that hold all seeds with some room, and chance."""
    errors = [v for s in settings for line in s.trials if (v := line.figures["mse"]) is not None]
    leaks = [v for s in settings for line in s.trials if (v := line.figures["probe_accuracy"]) is not None]
    low, high = min(errors), max(errors)
    if high / max(low, 1e-12) > 3:
        room = (high / low) ** 0.1
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
        ticks = [
            f * 10.0**e for e in range(-6, 3) for f in (1, 1.5, 2, 3, 5, 7) if low / room <= f * 10.0**e <= high * room
        ]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.12 * ((high - low) or 0.2 * high or 1)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.6g}"))
    bottom, top = min(*leaks, chance or 1.0), max(*leaks, chance or 0.0)
    room = 0.12 * ((top - bottom) or 0.1)
    axes.set_ylim(max(bottom - room, 0), min(top + room, 1.03))
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.set_xlabel("reconstruction error (MSE), lower is better", color=_MUTED, fontsize=9)
    axes.set_ylabel("leakage: class read from the latent", color=_MUTED, fontsize=9)
    axes.tick_params(colors=_MUTED, labelsize=8.5, length=0)
    axes.grid(color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _references(axes: Axes, references: Sequence[Reference], chance: float | None) -> list[str]:
    """Draws those within the frame; returns what the others are, in words."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    beyond = []
    dotted: dict[str, Any] = {"color": _MUTED, "linewidth": 1, "linestyle": (0, (2, 2)), "zorder": 1}
    small: dict[str, Any] = {"fontsize": 8, "color": _MUTED, "textcoords": "offset points"}
    if chance is not None:
        axes.axhline(chance, **dotted)
        text = f"chance {chance:.1%}"
        axes.annotate(
            text, (1, chance), xycoords=("axes fraction", "data"), xytext=(-4, -4), ha="right", va="top", **small
        )
    for other in references:
        about = f"MSE {other.mse:.4f}" + ("" if other.leakage is None else f", {other.leakage:.1%}")
        if not left < other.mse < right or not bottom < (other.leakage or bottom + 1e-9) < top:
            beyond.append(f"{other.name}: {about}")
        elif other.leakage is None:
            axes.axvline(other.mse, **dotted)
            place: dict[str, Any] = {
                "xycoords": ("data", "axes fraction"),
                "xytext": (-3, 4),
                "rotation": 90,
                "ha": "right",
            }
            axes.annotate(other.name, (other.mse, 0), va="bottom", **place, **small)
        else:
            axes.plot(other.mse, other.leakage, "x", color=_INK, markersize=7, markeredgewidth=1.8)
            axes.annotate(other.name, (other.mse, other.leakage), xytext=(7, -3), **small)
    return beyond


def _labels(axes: Axes, arrangement: Arrangement) -> None:
    """The value along the curve beside each point, where it hides no other label and no point."""
    if arrangement.along is None:
        return
    scale = 72 / axes.figure.dpi  # pixels to points

    def at(setting: Setting) -> tuple[float, float]:
        x, y = axes.transData.transform((setting.mean("mse") or 0.0, setting.mean("probe_accuracy") or 0.0))
        return float(x * scale), float(y * scale)

    every = [setting for series in arrangement.series for setting in series.settings]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in map(at, every)]
    for i, series in enumerate(arrangement.series):
        for setting in series.settings:
            value = format_value(setting.values.get(arrangement.along))
            text = f"{title(arrangement.along)} {value}" if setting is series.settings[0] else value
            (x, y), width = at(setting), 4.9 * len(text)
            for dx, dy in ((8, 4), (8, -11), (-8 - width, 4), (-8 - width, -11), (-width / 2, 9), (-width / 2, -16)):
                box = (x + dx, y + dy, x + dx + width, y + dy + 8)
                if all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken):
                    taken.append(box)
                    where = (setting.mean("mse") or 0.0, setting.mean("probe_accuracy") or 0.0)
                    style: dict[str, Any] = {
                        "fontsize": 8,
                        "color": _SERIES[i % len(_SERIES)],
                        "textcoords": "offset points",
                    }
                    axes.annotate(text, where, xytext=(dx, dy), zorder=6, **style)
                    break
