"""The page about a sweep: trade-off, swaps side by side, maps, all trials; read from the folders of the trials.

Without its script the page shows the same, but does not react to the pointer.
"""

import collections
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from PIL import Image

from infoae_jax.evaluation.table import HEADLINE, Metric, references
from infoae_jax.reports.charts import MAKER, as_markup, as_png, as_svg
from infoae_jax.reports.page import GENERATOR, Tile, data_uri, render_page, replace_own
from infoae_jax.reports.tradeoff import NARROW, PAPER, WIDE, Arrangement, arrange, field_title, heat_map, tradeoff_chart
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


class SweepPage(NamedTuple):
    """What the template lays out. Without a finished and evaluated trial, what concerns settings is empty."""

    title: str
    folder: Path
    within: float
    lines: Sequence[TrialResult]
    states: Mapping[str, int]
    fields: list[str]  # that are swept
    metrics: list[Metric]  # that a trial has
    in_full: list[Metric]  # that a trial has by the full protocol, beside another one
    swaps: dict[str, str]  # sheets as data URIs, by trial
    settings: list[Setting]
    setting_of: dict[str, str]  # names, by trial
    best: Setting | None
    tiles: list[Tile]  # of the best
    arrangement: Arrangement
    best_of_series: dict[str, Setting]
    badges: dict[str, list[str]]  # of trials whose swaps are shown at first
    tradeoff: dict[str, Markup]  # by size
    maps: dict[Metric, Markup]


def write_sweep_report(run: str | Path, out: str | Path | None = None, within: float = MSE_TOLERANCE) -> Path:
    """Writes `sweep.jsonl`, the page, and its charts as SVG and PNG files into the folder of a sweep.

    Args:
      run: the sweep's folder, or the one it lies in.
      out: where the page goes; by default `report.html` in the sweep's folder.
      within: share by which the MSE of the recommended setting may exceed the lowest one.

    Returns:
      Where the page is.

    Raises:
      UserError: if there are no trials, or a file that is not ours is in the way.
    """
    folder, lines = find_sweep(run)
    write_results(folder, lines)
    settings, failed = group_by_setting(lines), [line for line in lines if line.reason]
    ranked, arrangement = rank_settings(settings, within), arrange(settings)
    best = ranked[0] if ranked else None
    others = references(lines[0].data, {line.bottleneck for setting in settings for line in setting.lines})
    sizes = {"wide": WIDE, "narrow": NARROW, "paper": PAPER} if settings else {}
    tradeoff = {name: tradeoff_chart(arrangement, best, others, size) for name, size in sizes.items()}
    maps = {metric: heat for metric in HEADLINE if (heat := heat_map(arrangement, best, metric, failed)) is not None}
    files = {f"map_{metric.name}": heat for metric, heat in maps.items()}
    if settings:
        files["tradeoff"] = tradeoff.pop("paper")
    for name, chart in files.items():
        for kind, content in (("svg", as_svg(chart)), ("png", as_png(chart))):
            replace_own(folder / "figures" / f"{name}.{kind}", content, MAKER, "Move it away.")
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name == "sweep" else resolved.name
    page = SweepPage(
        title=f"{name}, sweep",
        folder=folder,
        within=within,
        lines=lines,
        states=collections.Counter(line.state for line in lines),
        fields=list(dict.fromkeys(field for line in lines for field in line.values)),
        metrics=[m for m in HEADLINE if any(line.figures.get(m.name) is not None for line in lines)],
        in_full=[m for m in HEADLINE[:2] if any(line.full.get(m.name) is not None for line in lines)],
        swaps={line.name: swaps for line in lines if (swaps := _newest_swaps(folder / line.name))},
        settings=settings,
        setting_of={trial.name: setting.name for setting in settings for trial in setting.lines},
        best=best,
        tiles=_tiles(best) if best else [],
        arrangement=arrangement,
        best_of_series={s.label: rank_settings(s.settings, within)[0] for s in arrangement.series},
        badges=_badges(settings, best) if best else {},
        tradeoff={size: as_markup(chart, size) for size, chart in tradeoff.items()},
        maps={metric: as_markup(heat, f"map-{metric.name}") for metric, heat in maps.items()},
    )
    path = Path(out) if out else folder / "report.html"
    text = render_page(
        "sweep.html", page, setting=format_value, short=short_name, title=field_title, duration=format_duration
    )
    replace_own(path, text, GENERATOR, "Choose another --out.")
    return path


def _tiles(setting: Setting) -> list[Tile]:
    first, seeds = setting.lines[0], len(setting.lines)
    tiles = []
    for metric in HEADLINE[:4]:
        mean = setting.mean(metric.name)
        notes = [
            f"chance {first.chance:.1%}" if metric.name == "probe_accuracy" and first.chance is not None else "",
            f"± {metric.write(setting.spread(metric.name))} over {seeds} seeds" if seeds > 1 else "one seed",
            "" if first.protocol == "full" else f"{first.protocol} protocol",
            "judges not trusted" if metric.path[0] in first.untrusted else "",
        ]
        if mean is not None:
            tiles.append(Tile(metric.title, metric.write(mean), ", ".join(filter(None, notes))))
    return tiles


def _badges(settings: list[Setting], best: Setting) -> dict[str, list[str]]:
    badges = {best.lines[0].name: ["recommended"]}
    for metric, badge in (("mse", "lowest error"), ("probe_accuracy", "lowest leakage")):
        lowest = min(settings, key=lambda setting: setting.mean(metric) or 0.0)
        badges.setdefault(lowest.lines[0].name, []).append(badge)
    return badges


def _newest_swaps(folder: Path) -> str | None:
    """The newest sheet of a run at half its size, since a page holds many."""
    paths = sorted((folder / "samples").glob("epoch_*.png"))
    if not paths:
        return None
    buffer = io.BytesIO()
    with Image.open(paths[-1]) as sheet:
        size = sheet.width // 2, sheet.height // 2
        sheet.convert("RGB").resize(size, Image.Resampling.NEAREST).save(buffer, "WEBP", quality=85, method=4)
    return data_uri(buffer.getvalue(), "webp")
