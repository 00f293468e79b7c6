"""An evaluation as rows of a table, for the terminal and for reports, and its headline metrics as numbers."""

import contextlib
import itertools
import statistics
import string
from typing import Any, Literal, NamedTuple

from infoae_jax.evaluation.record import GROUNDS, Record
from infoae_jax.types import Json


class Row(NamedTuple):
    """A row of the table."""

    group: str  # the heading it stands under
    name: str  # what was measured
    value: str  # the figure, written out
    better: Literal["lower", "higher", ""] = ""
    reference: str = ""  # the same, measured or published elsewhere


# For a 16-dimensional latent. Cycle-VAE (Jha et al. 2018): its authors' released model, on the mean code, which its
# decoder receives, by `benchmarks/baselines.py run --rows "released: Cycle-VAE"`.
_STYLE = {"slant": ".85", "thickness": ".57", "area": ".70", "width": "-.14", "height": ".20"}
_COLOURS = [f"{ground}_{c}" for ground in ("background", "foreground") for c in "lab"]
_ATTRIBUTES = ("slant", "thickness", "area", "length", "width", "height", "intensity", *_COLOURS, "contrast")
_COLOUR_ERRORS: tuple[tuple[str, str, str, Literal["lower", "higher"]], ...] = (
    ("Delta E, median", "median", ".1f", "lower"),
    ("90th percentile", "percentile_90", ".1f", "lower"),
    ("mean", "mean", ".1f", "lower"),
    ("most colourful tenth", "colourful_tenth", ".1f", "lower"),
    ("chroma kept by that tenth", "chroma_kept", ".0%", "higher"),
)
_MSE = "Cycle-VAE .0306; class means .0529; class means + PCA-16 .0256"
# Templates: each group is a figure, each value a format for its entries, each reference is for MNIST.
_ROWS = (
    Row("leakage", "probe accuracy", "{probe_accuracy:.1%}", "lower", "Cycle-VAE 77.7% (its paper: 17.6%)"),
    Row("leakage", "best probe", "{best_probe}, {protocol:words}"),
    Row("leakage", "chance (most frequent class)", "{chance:.1%}"),
    *(
        Row("leakage", title, f"{{highest[{p}]:.1%}} ({{interval[{p}][0]:.1%}} to {{interval[{p}][1]:.1%}})", "lower")
        for title, p in (
            ("(a) fitted on training codes", "fitted_on_training_codes"),
            ("(b) folds by group", "folds_by_group"),
            ("(c) folds at random", "folds_at_random"),
        )
    ),
    Row("leakage", "groups", "{groups:,}"),
    Row("leakage", "probe accuracy, training images", "{training_codes_accuracy:.1%}", "lower"),
    Row("leakage", "bits about the class, at least", "{information_bits:.3f} of {entropy_bits:.2f}", "lower"),
    Row("reconstruction", "MSE", "{mse:.5f}", "lower", _MSE),
    Row("reconstruction", "PSNR, SSIM", "{psnr:.2f} dB, {ssim:.4f}", "higher"),
    Row("reconstruction", "MSE increase, other latent", "{mse_increase_with_other_latent:.5f}", "higher"),
    Row("content", "accuracy of the model's classifier", "{content_accuracy:.1%}", "higher"),
    Row("transfer", "transfer accuracy", "{transfer_accuracy:.1%}", "higher", "Cycle-VAE 99.7%"),
    Row("transfer", "worst class", "{worst_accuracy:.1%} (class {worst_class})", "higher"),
    Row("transfer", "judges on real images", "{judge_accuracy:.1%} (threshold {judge_threshold:.1%})"),
    *(
        Row(
            "style",
            f"{name.replace('_', ' ')}, correlation",
            f"{{correlation[{name}]:.3f}} (reconstruction {{ceiling[{name}]:.3f}})",
            "higher",
            f"Cycle-VAE {_STYLE[name]}" if name in _STYLE else "",
        )
        for name in _ATTRIBUTES
    ),
    *(
        Row(
            "style",
            f"{ground} colour off by, {title}",
            f"{{colour_error[swaps][{ground}][{entry}]:{form}}} "
            f"(reconstruction {{colour_error[reconstructions][{ground}][{entry}]:{form}}})",
            better,
        )
        for ground in GROUNDS
        for title, entry, form, better in _COLOUR_ERRORS
    ),
    Row("style", "swaps without any stroke", "{swaps_without_stroke}", "lower"),
    Row("counterfactual", "MSE from the true image", "{mse:.5f}", "lower"),
    Row("counterfactual", "PSNR, SSIM", "{psnr:.2f} dB, {ssim:.4f}", "higher"),
    Row("counterfactual", "PSNR of what can be foreseen", "{best_psnr:.2f} dB"),
    Row("composition", "L1 after 1 null swap (0..255)", "{l1_after_1:.2f}", "lower", "Cycle-VAE 18.4"),
    Row("composition", "L1 after 10 null swaps", "{l1_after_10:.2f}", "lower", "Cycle-VAE 28.0"),
    Row("composition", "judges' accuracy after 10", "{accuracy_after_10:.1%}", "higher"),
    Row("reversibility", "there and back", "MSE {mse:.4f}, R2 {r2:.3f}", "lower", "Cycle-VAE .0344, R2 .81"),
    Row("reversibility", "there, blurred, and back", "MSE {blurred_mse:.4f}, R2 {blurred_r2:.3f}", "lower"),
    Row("realism", "Fréchet distance", "{frechet_distance:.2f}", "lower"),
    Row("realism", "Fréchet distance of real images", "{frechet_distance_real_images:.2f}"),
    Row("realism", "Fréchet distance of reconstructions", "{frechet_distance_reconstructions:.2f}", "lower"),
    Row("realism", "precision, recall", "{precision:.1%}, {recall:.1%}", "higher"),
    Row("cost", "encode, decode", "{encode_images_per_s:,.0f}, {decode_images_per_s:,.0f} images/s on {device}"),
    Row("cost", "parameters", "{parameters:,}"),
)


class _Formatter(string.Formatter):
    """Writes None as 'undefined', lists and dictionaries entry by entry."""

    def format_field(self, value: Any, form: str) -> str:
        if value is None:
            return "undefined"
        if isinstance(value, dict):
            return ", ".join(f"{name} {self.format_field(each, form)}" for name, each in value.items())
        if isinstance(value, list):
            return ", ".join(self.format_field(each, form) for each in value)
        return value.replace("_", " ") if form == "words" else format(value, form)


def table_rows(record: Record) -> list[Row]:
    """Writes out all figures of an evaluation, and why some were left out."""
    figures: Json = {**record["figures"], "cost": record["cost"]}
    if (found := figures.get("transfer")) and found.get("by_class"):
        accuracy, name = min(zip(found["by_class"], record["class_names"], strict=True), key=lambda pair: pair[0])
        figures["transfer"] = {**found, "worst_accuracy": accuracy, "worst_class": name}
    rows = []
    for figure, templates in itertools.groupby(_ROWS, key=lambda row: row.group):
        group = figure + (" (untrusted: judges below their threshold)" if figure in record["untrusted"] else "")
        if figure in record["left_out"]:
            rows.append(Row(group, "left out", record["left_out"][figure]))
        for row in templates:
            reference = row.reference if record["data"]["name"] == "mnist" else ""
            with contextlib.suppress(KeyError):  # the figure or this entry was left out
                value = _Formatter().vformat(row.value, (), figures[figure])
                rows.append(row._replace(group=group, value=value, reference=reference))
    return rows


def as_text(record: Record) -> str:
    """Lays out the table of an evaluation for the terminal."""
    rows, data = table_rows(record), record["data"]
    names, values = max(len(row.name) for row in rows), max(len(row.value) for row in rows if len(row.value) < 60)
    lines = [
        f"step {record['step']}, {data['name']} ({data['test']:,} test images), bottleneck {record['bottleneck']}, "
        f"{record['protocol']['name']} protocol"
    ]
    for group, members in itertools.groupby(rows, key=lambda row: row.group):
        lines.append(group)
        lines += [f"  {row.name:<{names}}  {row.value:<{values}}  {row.reference}".rstrip() for row in members]
    return "\n".join(lines)


class Metric(NamedTuple):
    """One of the headline metrics, by which runs are compared."""

    name: str  # in summaries
    title: str  # for people
    path: tuple[str, str]  # figure and entry in an evaluation; if the entry is a dictionary, its mean counts
    form: str  # how it is written
    better: Literal["lower", "higher"]

    def of(self, record: Record) -> float | None:
        """Returns its value in an evaluation, None if that left it out."""
        figure, entry = self.path
        figures: Json = {**record["figures"]}
        found = figures.get(figure, {}).get(entry)
        if isinstance(found, dict):
            defined = [value for value in found.values() if value is not None]
            found = statistics.fmean(defined) if defined else None
        return found

    def write(self, value: float | None) -> str:
        return "" if value is None else self.form.format(value)


HEADLINE = (
    Metric("probe_accuracy", "leakage", ("leakage", "probe_accuracy"), "{:.1%}", "lower"),
    Metric("mse", "MSE", ("reconstruction", "mse"), "{:.4f}", "lower"),
    Metric("transfer_accuracy", "transfer accuracy", ("transfer", "transfer_accuracy"), "{:.1%}", "higher"),
    Metric("style_correlation", "style kept, mean r", ("style", "correlation"), "{:.2f}", "higher"),
    Metric("counterfactual_mse", "counterfactual MSE", ("counterfactual", "mse"), "{:.4f}", "lower"),
    Metric("composition_l1", "composition, L1 after 10", ("composition", "l1_after_10"), "{:.1f}", "lower"),
    Metric("reversibility_mse", "there and back, MSE", ("reversibility", "mse"), "{:.4f}", "lower"),
    Metric("frechet_distance", "Fréchet distance", ("realism", "frechet_distance"), "{:.1f}", "lower"),
)


class Reference(NamedTuple):
    """Another system, or what simple means would reach."""

    name: str
    mse: float
    leakage: float | None = None  # None: only its error is known
    bottleneck: int | None = None  # None: whatever the size of the latent


_MNIST = (
    Reference("class means", 0.0529),
    Reference("class means + PCA-16", 0.0256, bottleneck=16),
    Reference("class means + PCA-64", 0.0090, bottleneck=64),
    Reference("Cycle-VAE", 0.0306, 0.777, bottleneck=16),
)


def references(data: str, bottlenecks: set[int]) -> list[Reference]:
    """Returns what to compare runs on the data set `data` with, given the sizes of their latents."""
    return [each for each in _MNIST if data == "mnist" and each.bottleneck in (None, *bottlenecks)]
