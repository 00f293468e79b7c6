"""Charts, drawn by matplotlib: as part of a page, and as SVG and PNG files.

They are drawn in the colours of the light theme. The style sheet of a page replaces these by its variables of the same
names, so that charts follow the dark theme, too.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from infoae_jax.types import Json

SERIES = ("#2563a8", "#c2571a", "#2c7d4f", "#8a4fa3", "#a8842a", "#b03a5b")
INK, MUTED, RULE, CARD = "#1d1f21", "#666b70", "#dddcd6", "#ffffff"
COLOURS = {"ink": INK, "muted": MUTED, "rule": RULE, "card": CARD, **{f"s{i}": c for i, c in enumerate(SERIES)}}
MAKER = "infoae_jax"  # marks every file as ours
Scale: TypeAlias = Literal["linear", "log", "percent"]


def new_chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=CARD)
    FigureCanvasAgg(figure)  # measures texts
    axes = figure.add_subplot(facecolor=CARD)
    axes.tick_params(colors=MUTED, labelsize=8.5, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=MUTED, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def lay_out(figure: Figure) -> Figure:
    """Places what the chart has, once for all files that are made of it, and returns the chart."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def set_scale(axes: Axes, which: Literal["x", "y"], scale: Scale, num_ticks: int) -> None:
    """Sets the scale of an axis, with about `num_ticks` round numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if scale == "log":
        axes.set(**{f"{which}scale": "log"})
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if num_ticks > 5 else (1, 2, 5)))
    else:
        axis.set_major_locator(MaxNLocator(num_ticks, steps=[1, 2, 2.5, 5, 10]))
    percent = scale == "percent"
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.5g}%" if percent else f"{value:.6g}"))


def annotate(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any) -> Annotation:
    """Writes `text` beside a point of a chart, on the side to which `offset` leads, in points."""
    x, y = ((value > 0) - (value < 0) for value in offset)
    place: Json = {
        "ha": ("center", "left", "right")[x],
        "va": ("center", "bottom", "top")[y],
        "textcoords": "offset points",
    }
    return axes.annotate(text, at, offset, **place | {"color": MUTED, "fontsize": 8} | style)


def line_chart(lines: Mapping[int, Sequence[tuple[float, float]]], scale: Scale, quantity: str) -> Figure:
    """Values of a quantity over epochs: (epoch, value) of each run, by the run's number."""
    figure, axes = new_chart(3.7, 2.3)
    for number, points in lines.items():
        colour, dashes = SERIES[number % len(SERIES)], "--" if number >= len(SERIES) else "-"
        axes.plot(*zip(*points, strict=True), dashes, color=colour, linewidth=1.5, gid=f"run-{number}")
    set_scale(axes, "y", scale, 4)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel=quantity)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    return lay_out(figure)


def as_file(figure: Figure, kind: Literal["svg", "png"], salt: str = MAKER, metadata: Json | None = None) -> bytes:
    """The figure as a file, the same for the same arguments. In SVG, text stays text."""
    metadata = metadata or ({"Software": MAKER} if kind == "png" else {"Creator": MAKER, "Date": None})
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def as_markup(figure: Figure, name: str) -> Markup:
    """The figure as a part of a page, in which all ids begin with `name`."""
    for number, artist in enumerate(figure.findobj()):
        artist.set_gid(f"{name}.{artist.get_gid() or number}")
    text = as_file(figure, "svg", name, dict.fromkeys(("Creator", "Date", "Format", "Type"))).decode()
    return Markup(text[text.index("<svg") :])
