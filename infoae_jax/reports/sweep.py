"""The page about a sweep: trade-off, swaps side by side, maps, all trials; read from the folders of the trials.

Without its script the page shows the same, but does not react to the pointer.
"""

import io
import math
from pathlib import Path

from PIL import Image

from infoae_jax.evaluation.table import HEADLINE, references
from infoae_jax.files import user_path
from infoae_jax.reports.charts import MAKER, as_file, as_markup
from infoae_jax.reports.page import GENERATOR, data_uri, read_sheets, render_page, replace_own
from infoae_jax.reports.tradeoff import NARROW, PAPER, WIDE, arrange, field_title, heat_map, tradeoff_chart
from infoae_jax.sweeps import results
from infoae_jax.sweeps.trials import format_value, short_name


def write_sweep_report(run: str | Path, out: str | Path | None = None, within: float = results.MSE_TOLERANCE) -> Path:
    """Writes `sweep.jsonl`, the page, and its charts as SVG and PNG files; returns where the page is.

    Args:
      run: the sweep's folder, or the one it lies in.
      out: the page; by default `report.html` in the sweep's folder.
      within: share by which the MSE of the recommended setting may exceed the lowest one.

    Raises:
      UserError: if there are no trials, or a file that is not ours is in the way.
    """
    folder, trials = results.find_sweep(user_path(run, "run"))
    results.write_results(folder, trials)
    settings, failed = results.group_by_setting(trials), [trial for trial in trials if trial.reason]
    arrangement, best = arrange(settings), next(iter(results.rank_settings(settings, within)), None)
    badges: dict[str, list[str]] = {}  # of settings whose swaps are shown at first
    for badge, tolerance in {"recommended": within, "lowest error": 0.0, "lowest leakage": math.inf}.items():
        for setting in results.rank_settings(settings, tolerance)[:1]:
            badges.setdefault(setting.name, []).append(badge)
    maps = {metric: heat for metric in HEADLINE if (heat := heat_map(arrangement, best, metric, failed)) is not None}
    files, tradeoff = {f"map_{metric.name}": heat for metric, heat in maps.items()}, {}
    if settings:
        compared = [trial for setting in settings for trial in setting.trials]
        others = references(compared[0].data, {trial.bottleneck for trial in compared})
        files["tradeoff"] = tradeoff_chart(arrangement, best, others, PAPER)
        for name, size in (("wide", WIDE), ("narrow", NARROW)):
            tradeoff[name] = as_markup(tradeoff_chart(arrangement, best, others, size), name)
    for name, chart in files.items():
        for kind in ("svg", "png"):
            replace_own(folder / "figures" / f"{name}.{kind}", as_file(chart, kind), MAKER, "Move it away.")
    newest = {trial.name: next(read_sheets(folder / trial.name), None) for trial in trials}
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name == "sweep" else resolved.name
    text = render_page(
        "sweep.html",
        (format_value, short_name, field_title, results.format_duration),
        title=": ".join(filter(None, [f"{name}, sweep", arrangement.subject])),
        folder=folder,
        within=within,
        trials=trials,
        fields=list(dict.fromkeys(field for trial in trials for field in trial.values)),
        metrics=[m for m in HEADLINE if any(trial.figures.get(m.name) is not None for trial in trials)],
        in_full=[m for m in HEADLINE[:2] if any(trial.full.get(m.name) is not None for trial in trials)],
        swaps={name: _half_size(sheet[1]) for name, sheet in newest.items() if sheet},
        setting_of={trial.name: setting.name for setting in settings for trial in setting.trials},
        best=best,
        arrangement=arrangement,
        best_of_curves={label: results.rank_settings(curve, within)[0] for label, curve in arrangement.curves.items()},
        badges=badges,
        tradeoff=tradeoff,
        maps={metric: as_markup(heat, f"map-{metric.name}") for metric, heat in maps.items()},
    )
    path = folder / "report.html" if out is None else user_path(out, "out")
    replace_own(path, text, GENERATOR, "Choose another --out.")
    return path


def _half_size(png: bytes) -> str:
    """A sheet of swaps as a data URI, made smaller since a page holds many."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as sheet:
        sheet.convert("RGB").reduce(2).save(buffer, "WEBP", quality=85, method=4)
    return data_uri(buffer.getvalue(), "webp")
