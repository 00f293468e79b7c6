"""The charts of a sweep: leakage against reconstruction error, and maps of each metric over the swept fields.

What a reader can point at has an id that ends with `pick-` and the name of its setting.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from infoae_jax.evaluation.table import Metric, Reference
from infoae_jax.reports.charts import CARD, INK, MUTED, RULE, SERIES, annotate, lay_out, new_chart, set_scale
from infoae_jax.sweeps.results import MSE_TOLERANCE, Setting, TrialResult
from infoae_jax.sweeps.trials import format_value, short_name
from infoae_jax.types import Json

LAMBDA = "train.lambda_adv"
WIDE, NARROW, PAPER = (10.4, 5.0), (3.9, 4.4), (6.6, 4.2)  # inches
_MARKERS = "osD^v"  # the next one whenever the colours are used up
_LABEL_OFFSETS = ((8, 4), (8, -4), (-8, 4), (-8, -4), (0, 8), (0, -8))  # points, in order of preference


class Arrangement(NamedTuple):
    """Settings as curves, one for each value of all fields but one."""

    settings: Sequence[Setting]
    along: str | None  # the field whose value changes along a curve; None if no number is swept
    others: list[str]  # the other swept fields
    curves: dict[str, list[Setting]]  # by label

    @property
    def subject(self) -> str:
        """What was measured how, for titles: the data set and the protocol; '' if there are no settings."""
        trials = [trial for setting in self.settings for trial in setting.trials][:1]
        return "".join(f"{trial.data}, {trial.protocol} protocol" for trial in trials)


def arrange(settings: Sequence[Setting]) -> Arrangement:
    """Arranges settings along lambda, or else along the first number that is swept."""
    fields = dict.fromkeys(field for setting in settings for field in setting.values)
    swept = [field for field in fields if len({repr(s.values.get(field)) for s in settings}) > 1]
    numbers = [f for f in swept if all(isinstance(s.values.get(f, 0), int | float) for s in settings)]
    along = LAMBDA if LAMBDA in numbers else next(iter(numbers), None)
    others = [field for field in swept if field != along]
    curves: dict[str, list[Setting]] = {_label(others, setting.values): [] for setting in settings}
    for setting in sorted(settings, key=lambda setting: setting.values.get(along or "", -math.inf)):
        curves[_label(others, setting.values)].append(setting)
    return Arrangement(settings, along, others, curves)


def field_title(field: str) -> str:
    """The name of a field on a chart."""
    return "λ" if field == LAMBDA else short_name(field).replace("_", " ")


def _label(fields: Sequence[str], values: Json) -> str:
    return ", ".join(f"{field_title(field)} {format_value(values.get(field))}" for field in fields)


def tradeoff_chart(
    arrangement: Arrangement, best: Setting | None, others: Sequence[Reference], size: tuple[float, float]
) -> Figure:
    """Leakage against MSE, with standard deviations over seeds, a ring around `best`, and other systems."""
    figure, axes = new_chart(*size)
    trials = [trial for setting in arrangement.settings for trial in setting.trials]
    chance = next((trial.chance for trial in trials if trial.chance is not None), None)
    _set_frame(axes, [_point(trial.figures.get) for trial in trials], chance)
    _set_title(axes, arrangement.subject)
    for i, (label, settings) in enumerate(arrangement.curves.items()):
        colour, marker = SERIES[i % len(SERIES)], _MARKERS[i // len(SERIES) % len(_MARKERS)]
        points = [_point(setting.mean) for setting in settings]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, zorder=3)
        axes.plot([], [], marker=marker, color=colour, label=label, markersize=5, linewidth=1.6)
        for setting, (x, y) in zip(settings, points, strict=True):
            (dot,) = axes.plot(x, y, marker, color=colour, markersize=7, markeredgecolor=CARD, zorder=5)
            dot.set_gid(f"pick-{setting.name}")
            if setting is best:
                axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=INK, zorder=4)
            if len(setting.trials) > 1:
                for trial in setting.trials:
                    axes.plot(*_point(trial.figures.get), ".", color=colour, alpha=0.4, markersize=4)
                deviations = setting.spread("probe_accuracy"), setting.spread("mse")
                axes.errorbar(x, y, *deviations, color=colour, linewidth=1, capsize=2.5, alpha=0.75)
    _add_references(axes, others, chance)
    if len(arrangement.curves) > 1:
        style: Json = {"ncols": 2 if size == NARROW else 6, "frameon": False, "fontsize": 9, "labelcolor": INK}
        figure.legend(loc="outside upper left", **style)
    lay_out(figure)  # labels need to know where the points are
    _label_points(axes, arrangement)
    return figure


def heat_map(
    arrangement: Arrangement, best: Setting | None, metric: Metric, failed: Sequence[TrialResult] = ()
) -> Figure | None:
    """A metric by curve and by the field along it: the better, the stronger the colour. None where no setting has it.

    A frame marks `best`. Cells without a setting show the states of the trials that `failed`.
    """
    means = {setting.name: mean for setting in arrangement.settings if (mean := setting.mean(metric.name)) is not None}
    if not means:
        return None
    along, others, labels = arrangement.along or "", arrangement.others, list(arrangement.curves)
    failed = [trial for trial in failed if trial.values and _label(others, trial.values) in labels]
    tried = [setting.values for setting in arrangement.settings] + [trial.values for trial in failed]
    columns = sorted({values.get(along) for values in tried}, key=lambda value: -math.inf if value is None else value)

    def cell(values: Json) -> tuple[int, int]:
        return columns.index(values.get(along)), labels.index(_label(others, values))

    figure, axes = new_chart(max(3.7, 0.6 * len(columns) + 0.9), 0.42 * len(labels) + 1.1)
    _set_title(axes, f"{metric.title} {'↓' if metric.better == 'lower' else '↑'}  ({arrangement.subject})")
    texts: dict[tuple[int, int], tuple[str, str]] = {cell(trial.values): (trial.state, MUTED) for trial in failed}
    middle, span = (min(means.values()) + max(means.values())) / 2, _colour_span(arrangement.settings, metric, means)
    for setting in arrangement.settings:
        x, y = cell(setting.values)
        mean = means.get(setting.name)
        texts[x, y] = metric.write(mean), INK
        if mean is not None:
            share = 0.5 + (mean - middle) / span if span else 0.5
            strength = 0.06 + 0.54 * (share if metric.better == "higher" else 1 - share)
            patch = Rectangle((x - 0.46, y - 0.45), 0.92, 0.9, facecolor=(SERIES[0], strength), linewidth=1.4)
            patch.set(edgecolor=INK if setting is best else "none", gid=f"pick-{setting.name}")
            axes.add_patch(patch)
    for (x, y), (text, colour) in texts.items():
        axes.text(x, y, text, color=colour, ha="center", va="center", fontsize=9)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), [format_value(value) if along else "" for value in columns])
    axes.set_xlabel(field_title(along) if along else "")
    if len(others) == 1:  # the axis bears the name of the field
        labels = [format_value(settings[0].values.get(others[0])) for settings in arrangement.curves.values()]
        axes.set_ylabel(field_title(others[0]))
    axes.set_yticks(range(len(labels)), labels)
    return lay_out(figure)


def _colour_span(settings: Sequence[Setting], metric: Metric, means: Mapping[str, float]) -> float:
    """How far the ends of the colour scale lie apart: all means, and so much that noise has little contrast."""
    seeds = [setting.spread(metric.name) for setting in settings if len(setting.trials) > 1]
    # Means of a few seeds often differ by twice their deviation. Without several seeds nobody knows it; then a share
    # of the value counts as little that the recommendation overlooks, too.
    noise = 4 * statistics.fmean(seeds) if seeds else MSE_TOLERANCE * max(map(abs, means.values()))
    return max(max(means.values()) - min(means.values()), noise)


def _set_title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=MUTED, fontsize=9)


def _point(value_of: Callable[[str], float | None]) -> tuple[float, float]:
    """MSE and leakage of a setting or trial, by its function from names of metrics to values."""
    return value_of("mse") or 0.0, value_of("probe_accuracy") or 0.0


def _set_frame(axes: Axes, points: Sequence[tuple[float, float]], chance: float | None) -> None:
    """Sets limits that hold all points and chance, with some room, and describes the axes."""
    errors = [x for x, _ in points]
    set_scale(axes, "x", "log" if 0 < min(errors) < max(errors) / 3 else "linear", 7)
    set_scale(axes, "y", "percent", 7)
    axes.margins(0.12)
    # As much of the error as a recommendation overlooks is in the frame, so that noise does not fill it.
    overlooked = min(errors) * (1 + MSE_TOLERANCE), points[0][1]
    axes.update_datalim([*points, overlooked] + ([] if chance is None else [(errors[0], chance)]))
    axes.autoscale_view()
    axes.set(xlim=axes.get_xlim(), ylim=(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 1.03)))
    axes.set(xlabel="reconstruction error (MSE), lower is better", ylabel="leakage (probe accuracy), lower is better")
    axes.grid(color=RULE, linewidth=0.8)


def _add_references(axes: Axes, others: Sequence[Reference], chance: float | None) -> None:
    """Adds chance and the systems within the frame, and names those beyond it."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    beyond = ["beyond the frame →"]
    dotted: Json = {"color": MUTED, "linewidth": 1, "linestyle": ":", "zorder": 1}
    if chance is not None:
        axes.axhline(chance, **dotted)
        annotate(axes, f"chance {chance:.1%}", (1, chance), (-4, -4), xycoords=("axes fraction", "data"))
    for name, mse, leakage, _ in others:
        if not left < mse < right or not (leakage is None or bottom < leakage < top):
            beyond.append(f"{name}: MSE {mse:.4f}" + ("" if leakage is None else f", {leakage:.1%}"))
        elif leakage is None:
            axes.axvline(mse, **dotted)
            annotate(axes, name, (mse, 0), (-3, 4), xycoords=("data", "axes fraction"), rotation=90)
        else:
            axes.plot(mse, leakage, "x", color=INK, markersize=7, markeredgewidth=1.8)
            annotate(axes, name, (mse, leakage), (7, 0))
    if len(beyond) > 1:
        annotate(axes, "\n".join(beyond), (1, 1), (-4, -4), xycoords="axes fraction", linespacing=1.4)


def _label_points(axes: Axes, arrangement: Arrangement) -> None:
    """Writes the value along the curve beside each point, where it covers no other label and no point."""
    if arrangement.along is None:
        return
    means = [(*_point(setting.mean), 6) for setting in arrangement.settings]
    seeds = [(*_point(trial.figures.get), 3) for setting in arrangement.settings for trial in setting.trials]
    taken = [Bbox([axes.transData.transform((x, y))] * 2).padded(pixels) for x, y, pixels in means + seeds]
    for i, settings in enumerate(arrangement.curves.values()):
        for setting in settings:
            name = f"{field_title(arrangement.along)} " if setting is settings[0] else ""
            text = name + format_value(setting.values.get(arrangement.along))
            for offset in _LABEL_OFFSETS:
                label = annotate(axes, text, _point(setting.mean), offset, color=SERIES[i % len(SERIES)], zorder=6)
                box = label.get_window_extent()
                inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
                if inside and not box.count_overlaps(taken):
                    taken.append(box)
                    break
                label.remove()
