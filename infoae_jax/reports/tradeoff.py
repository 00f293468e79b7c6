"""The charts of a sweep: leakage against reconstruction error, and maps of each metric over the swept fields.

What a reader can point at has an id that ends with `pick-` and the name of its setting.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from infoae_jax.evaluation.table import Metric, Reference
from infoae_jax.reports.charts import CARD, INK, MUTED, RULE, SERIES, annotate, new_chart, set_scale
from infoae_jax.sweeps.results import Setting, TrialResult
from infoae_jax.sweeps.trials import format_value, short_name
from infoae_jax.types import Json

LAMBDA = "train.lambda_adv"
WIDE, NARROW, PAPER = (10.4, 5.0), (3.9, 4.4), (6.6, 4.2)  # inches
_MARKERS = "osD^v"  # the next one whenever the colours are used up
_LABEL_OFFSETS = ((8, 4), (8, -4), (-8, 4), (-8, -4), (0, 8), (0, -8))  # points, in order of preference


class Series(NamedTuple):
    """Settings along one curve, by the value of the field along it."""

    label: str
    settings: list[Setting]


class Arrangement(NamedTuple):
    """Settings as curves.

    Attributes:
      along: the field whose value changes along a curve; None if no number is swept.
      others: the other swept fields, which tell the curves apart.
      series: the curves.
    """

    along: str | None
    others: list[str]
    series: list[Series]

    @property
    def settings(self) -> list[Setting]:
        """Those of all curves."""
        return [setting for series in self.series for setting in series.settings]


def arrange(settings: Sequence[Setting]) -> Arrangement:
    """Arranges settings along lambda, or else the first number that is swept, in a curve for each value of the rest."""
    fields = dict.fromkeys(field for setting in settings for field in setting.values)
    swept = [field for field in fields if len({repr(s.values.get(field)) for s in settings}) > 1]
    numbers = [f for f in swept if all(isinstance(s.values.get(f, 0), int | float) for s in settings)]
    along = LAMBDA if LAMBDA in numbers else next(iter(numbers), None)
    others = [field for field in swept if field != along]
    found: dict[str, list[Setting]] = {}
    for setting in sorted(settings, key=lambda setting: setting.values.get(along or "", -math.inf)):
        found.setdefault(_label(others, setting.values), []).append(setting)
    labels = dict.fromkeys(_label(others, setting.values) for setting in settings)
    return Arrangement(along, others, [Series(label, found[label]) for label in labels])


def field_title(field: str) -> str:
    """The name of a field on a chart."""
    return "λ" if field == LAMBDA else short_name(field).replace("_", " ")


def _label(fields: Sequence[str], values: Json) -> str:
    return ", ".join(f"{field_title(field)} {format_value(values.get(field))}" for field in fields)


def tradeoff_chart(
    arrangement: Arrangement, best: Setting | None, others: Sequence[Reference], size: tuple[float, float]
) -> Figure:
    """Leakage against MSE, with dots and standard deviations for seeds, a ring around `best`, and other systems."""
    figure, axes = new_chart(*size)
    trials = [trial for setting in arrangement.settings for trial in setting.lines]
    chance = next((trial.chance for trial in trials if trial.chance is not None), None)
    _set_frame(axes, [_point(trial) for trial in trials], chance)
    for i, series in enumerate(arrangement.series):
        colour, marker = SERIES[i % len(SERIES)], _MARKERS[i // len(SERIES) % len(_MARKERS)]
        axes.plot(*zip(*map(_mean, series.settings), strict=True), color=colour, linewidth=1.6, zorder=3)
        axes.plot([], [], marker=marker, color=colour, label=series.label, markersize=5, linewidth=1.6)
        for setting in series.settings:
            x, y = _mean(setting)
            if len(setting.lines) > 1:
                seeds = [_point(trial) for trial in setting.lines]
                axes.plot(*zip(*seeds, strict=True), ".", color=colour, alpha=0.4, markersize=4)
                deviations = setting.spread("probe_accuracy"), setting.spread("mse")
                axes.errorbar(x, y, *deviations, color=colour, linewidth=1, capsize=2.5, alpha=0.75)
            name = f"pick-{setting.name}"
            axes.plot(x, y, marker, color=colour, markersize=7, markeredgecolor=CARD, zorder=5, gid=name)
            if setting is best:
                axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=INK, zorder=4)
    _add_references(axes, others, chance)
    if len(arrangement.series) > 1:
        columns = 2 if size == NARROW else 6
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
    figure.draw_without_rendering()  # labels need to know where the points are
    _label_points(axes, arrangement)
    return figure


def heat_map(
    arrangement: Arrangement, best: Setting | None, metric: Metric, failed: Sequence[TrialResult] = ()
) -> Figure | None:
    """A metric over the series and the field along them: the better its mean, the stronger the colour.

    Args:
      arrangement: the settings.
      best: the setting to frame.
      metric: what to show.
      failed: trials that gave nothing; cells without a setting say so.

    Returns:
      The chart; None where no setting has the metric.
    """
    along, labels = arrangement.along or "", [series.label for series in arrangement.series]
    means = {setting.name: mean for setting in arrangement.settings if (mean := setting.mean(metric.name)) is not None}
    if not means:
        return None
    failed = [line for line in failed if line.values and _label(arrangement.others, line.values) in labels]
    tried = [setting.values for setting in arrangement.settings] + [line.values for line in failed]
    columns = sorted({values.get(along) for values in tried}, key=lambda value: -math.inf if value is None else value)

    def cell(values: Json) -> tuple[int, int]:
        return columns.index(values.get(along)), labels.index(_label(arrangement.others, values))

    def write(x: int, y: int, text: str, colour: str) -> None:
        size = 8 if len(columns) < 8 else 6.5
        axes.text(x, y, text, color=colour, ha="center", va="center", fontsize=size)

    figure, axes = new_chart(4.4, 0.42 * len(labels) + 0.9)
    worst, most = (max, min) if metric.better == "lower" else (min, max)
    span = most(means.values()) - worst(means.values())
    states = {cell(line.values): line.state for line in failed}
    for setting in arrangement.settings:
        x, y = cell(setting.values)
        states.pop((x, y), None)
        if setting.name in means:
            mean = means[setting.name]
            good = (mean - worst(means.values())) / span if span else 0.5
            patch = Rectangle((x - 0.46, y - 0.45), 0.92, 0.9, facecolor=(SERIES[0], 0.06 + 0.54 * good), linewidth=1.4)
            patch.set(edgecolor=INK if setting is best else "none", gid=f"pick-{setting.name}")
            axes.add_patch(patch)
            write(x, y, metric.write(mean), INK)
    for place, state in states.items():
        write(*place, state, MUTED)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), [format_value(value) if along else "" for value in columns])
    if len(arrangement.others) == 1:  # the name of the field stands beside the axis
        labels = [format_value(series.settings[0].values.get(arrangement.others[0])) for series in arrangement.series]
        axes.set_ylabel(field_title(arrangement.others[0]))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(field_title(along) if along else "")
    return figure


def _point(trial: TrialResult) -> tuple[float, float]:
    return trial.figures["mse"] or 0.0, trial.figures["probe_accuracy"] or 0.0


def _mean(setting: Setting) -> tuple[float, float]:
    return setting.mean("mse") or 0.0, setting.mean("probe_accuracy") or 0.0


def _set_frame(axes: Axes, points: Sequence[tuple[float, float]], chance: float | None) -> None:
    """Sets limits that hold all points and chance, with some room, and describes the axes."""
    errors = [x for x, _ in points]
    set_scale(axes, "x", "log" if 0 < min(errors) < max(errors) / 3 else "linear", 7)
    set_scale(axes, "y", "percent", 7)
    axes.margins(0.12)
    axes.update_datalim(points if chance is None else [*points, (errors[0], chance)])
    axes.autoscale_view()
    axes.set(xlim=axes.get_xlim(), ylim=(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 1.03)))
    axes.set(xlabel="reconstruction error (MSE), lower is better", ylabel="leakage (probe accuracy), lower is better")
    axes.grid(color=RULE, linewidth=0.8)


def _add_references(axes: Axes, others: Sequence[Reference], chance: float | None) -> None:
    """Adds chance and the systems within the frame, and names the others in a corner."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    beyond = []
    dotted: Json = {"color": MUTED, "linewidth": 1, "linestyle": ":", "zorder": 1}
    corner = {"ha": "right", "va": "top"}
    if chance is not None:
        axes.axhline(chance, **dotted)
        annotate(axes, f"chance {chance:.1%}", (1, chance), (-4, -4), xycoords=("axes fraction", "data"), **corner)
    for other in others:
        if not left < other.mse < right or not (other.leakage is None or bottom < other.leakage < top):
            leakage = "" if other.leakage is None else f", {other.leakage:.1%}"
            beyond.append(f"{other.name}: MSE {other.mse:.4f}{leakage}")
        elif other.leakage is None:
            axes.axvline(other.mse, **dotted)
            place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "rotation": 90}
            annotate(axes, other.name, (other.mse, 0), (-3, 4), **place)
        else:
            axes.plot(other.mse, other.leakage, "x", color=INK, markersize=7, markeredgewidth=1.8)
            annotate(axes, other.name, (other.mse, other.leakage), (7, -3))
    if beyond:
        text = "\n".join(["beyond the frame →", *beyond])
        annotate(axes, text, (1, 1), (-4, -4), xycoords="axes fraction", linespacing=1.4, **corner)


def _label_points(axes: Axes, arrangement: Arrangement) -> None:
    """Writes the value along the curve beside each point, where it covers no other label and no point."""
    if arrangement.along is None:
        return
    means = axes.transData.transform([_mean(setting) for setting in arrangement.settings])
    seeds = axes.transData.transform([_point(trial) for setting in arrangement.settings for trial in setting.lines])
    taken = [Bbox.from_bounds(x - r, y - r, 2 * r, 2 * r) for points, r in ((means, 6), (seeds, 3)) for x, y in points]
    for i, series in enumerate(arrangement.series):
        for setting in series.settings:
            text = format_value(setting.values.get(arrangement.along))
            if setting is series.settings[0]:
                text = f"{field_title(arrangement.along)} {text}"
            for x, y in _LABEL_OFFSETS:
                side = {"ha": ("center", "left", "right")[(x > 0) - (x < 0)], "va": "bottom" if y > 0 else "top"}
                label = annotate(axes, text, _mean(setting), (x, y), color=SERIES[i % len(SERIES)], zorder=6, **side)
                label.set_in_layout(False)
                box = label.get_window_extent()
                inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
                if inside and not box.count_overlaps(taken):
                    taken.append(box)
                    break
                label.remove()
