"""The figure of `baselines.py table --plot`: leakage against error and against the style that is kept."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.ablation import COLUMNS, Column, Result, value

# By how the name of a row begins: what its kind is called, and its colour and marker. The first that fits counts.
KINDS = {
    "ours": ("ours, and the paper's recipe", "tab:blue", "o"),
    "paper's": ("ours, and the paper's recipe", "tab:blue", "o"),
    "released": ("models that others released", "tab:red", "s"),
    "ordinary": ("controls", "black", "D"),
    "class means": ("controls", "black", "D"),
    "the image": ("controls", "black", "D"),
    "": ("other methods with our networks", "tab:orange", "^"),
}
CHANCE = 11.35  # % of MNIST's test images
ON_TRAINING_CODES, BY_WRITER = (
    Column("", ("leakage", "highest", name), scale=100) for name in ("fitted_on_training_codes", "folds_by_group")
)
_BY_TITLE = {column.title: column for column in COLUMNS}
STYLE = tuple(_BY_TITLE[name] for name in ("slant", "thickness", "area"))


def plot(found: Mapping[str, Sequence[Result]], file: Path) -> None:
    """Draws each row with its number at (a), leakage fitted on training codes, and a line to (b), folds by writer."""
    figure = Figure(figsize=(11, 5.2), dpi=150, layout="constrained")
    errors, styles = figure.subplots(1, 2, sharex=True)
    names, shown = [], {}
    for number, (name, results) in enumerate(found.items(), 1):
        measured = [result for result in results if not isinstance(result, str)]
        kind, colour, marker = next(look for beginning, look in KINDS.items() if name.startswith(beginning))
        attacks = [_mean(measured, column) for column in (ON_TRAINING_CODES, BY_WRITER)]
        error, kept = _mean(measured, _BY_TITLE["MSE"]), [_mean(measured, column) for column in STYLE]
        if attacks[0] is None or error is None:
            continue
        names.append(f"{number}  {name.removeprefix('released: ')}")
        style = statistics.mean(r for r in kept if r is not None) if any(kept) else None  # controls keep nothing
        for axes, height in ((errors, error), (styles, style)):
            if height is None:
                continue
            axes.plot([a for a in attacks if a is not None], [height] * (2 - attacks.count(None)), color=colour, lw=1)
            (shown[kind],) = axes.plot(attacks[0], height, marker, color=colour, markersize=6, linestyle="none")
            axes.annotate(
                str(number), (attacks[0], height), (4, 4), textcoords="offset points", fontsize=8, color=colour
            )
    for axes, title in (
        (errors, "reconstruction error (MSE)"),
        (styles, "style kept (mean r of slant, thickness, area)"),
    ):
        axes.axvline(CHANCE, color="gray", linewidth=0.7, linestyle=":")
        axes.set(xlabel="leakage, %: marker (a), end of the line (b)", ylabel=title, xlim=(5, 103))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    ticks = (0.006, 0.008, 0.01, 0.02, 0.03, 0.05, 0.08)
    errors.set(yscale="log", yticks=ticks, yticklabels=map(str, ticks))
    errors.yaxis.set_minor_formatter("")
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
    figure.legend(
        [], [], title="\n".join(names), title_fontsize=8, loc="outside right center", frameon=False, alignment="left"
    )
    figure.savefig(file)


def _mean(results: Sequence[Result], column: Column) -> float | None:
    """Over the seeds, of what has the figure."""
    values = [
        found for result in results if not isinstance(result, str) and (found := value(result, column)) is not None
    ]
    return statistics.mean(values) if values else None
