"""The figures of an evaluation as rows of a table, and the chief ones as numbers: for the terminal, and for reports."""

import statistics
from typing import Any, NamedTuple


class Row(NamedTuple):
    """group: of figures; reference: measured or published elsewhere, '' where there is none."""

    group: str
    name: str
    value: str
    reference: str = ""
    better: str = ""  # 'lower' or 'higher'


# For a 16-dimensional latent on MNIST. Cycle-VAE (Jha et al. 2018): its authors' released model, measured by other
# code with like definitions, on the code that its decoder receives; leakage as its paper reports it beside that.
_MNIST = {
    "leakage": "Cycle-VAE 78.5 % (its paper: 17.56 %)",
    "mse": "Cycle-VAE .0531; class means .0529; class means + PCA-16 .0256",
    "transfer": "Cycle-VAE 94.0 %",
    "slant": "Cycle-VAE .82",
    "thickness": "Cycle-VAE .56",
    "area": "Cycle-VAE .68",
    "width": "Cycle-VAE .25",
    "height": "Cycle-VAE .14",
    "composition": "Cycle-VAE 26.8, 47.1",
    "reversibility": "Cycle-VAE .0709, r2 -0.15",
}


class Metric(NamedTuple):
    """One of the chief figures, by which runs are compared.

    path: where it stands among an evaluation's figures; of a dictionary there, the mean. form: how it is written.
    better: 'lower' or 'higher'.
    """

    name: str
    title: str
    path: tuple[str, ...]
    form: str
    better: str

    def of(self, record: dict[str, Any]) -> float | None:
        """Its value in an evaluation's record; None where that left it out."""
        found: Any = record["figures"]
        for key in self.path:
            found = (found or {}).get(key)
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
    """Another system, or what would be reached by simple means; leakage None: known by its error alone."""

    name: str
    mse: float
    leakage: float | None = None
    bottleneck: int | None = None  # None: whatever the latent's size


def references(data: str, bottlenecks: set[int]) -> list[Reference]:
    """What to compare runs on data set `data` with latents of these sizes to."""
    known = [
        Reference("class means", 0.0529),
        Reference("class means + PCA-16", 0.0256, bottleneck=16),
        Reference("class means + PCA-64", 0.0090, bottleneck=64),
        Reference("Cycle-VAE", 0.0531, 0.785, bottleneck=16),
    ]
    return [e for e in known if data == "mnist" and (e.bottleneck is None or e.bottleneck in bottlenecks)]


def table_rows(record: dict[str, Any]) -> list[Row]:
    """All figures of an evaluation's record, those that were left out with the reason."""
    reference = _MNIST if record["data"]["name"] == "mnist" else {}
    figures, untrusted = record["figures"], record["untrusted"]
    result: list[Row] = []

    def add(group: str, name: str, value: str, key: str = "", better: str = "") -> None:
        result.append(Row(group, name, value, reference.get(key, ""), better))

    if found := figures.get("leakage"):
        group = "leakage"
        where = "fitted on training codes" if found["fitted_on"] == "train_fitted" else "by folds on unseen codes"
        add(group, "class read from the code", f"{found['probe_accuracy']:.2%}", "leakage", "lower")
        add(group, "by", f"{found['probe']}, {where}")
        add(group, "chance (most frequent class)", f"{found['chance']:.2%}")
        add(group, "from codes of training images", f"{found['training_codes_accuracy']:.2%}", better="lower")
        add(group, "bits at least", f"{found['information_bits']:.3f} of {found['entropy_bits']:.2f}", better="lower")
        kinds = [kind for kind in ("train_fitted", "cross_validated", "training_codes") if kind in found]
        for name in found["train_fitted"]:
            values = ", ".join(f"{found[kind][name]:.2%}" for kind in kinds)
            add("leakage by probe", name.replace("_", " "), values)
        order = {"train_fitted": "fitted on training codes", "cross_validated": "by folds on unseen ones"}
        shown = [order.get(kind, "by a split of training codes") for kind in kinds]
        add("leakage by probe", "in this order", "; ".join(shown))
    if found := figures.get("reconstruction"):
        group = "reconstruction"
        add(group, "MSE", f"{found['mse']:.5f}", "mse", "lower")
        add(group, "PSNR, SSIM", f"{found['psnr']:.2f} dB, {found['ssim']:.4f}", better="higher")
        add(
            group,
            "MSE more with another latent of the class",
            f"{found['mse_increase_with_other_latent']:.5f}",
            better="higher",
        )
    if found := figures.get("content"):
        add(
            "content",
            "class read from an image by the model's classifier",
            f"{found['content_accuracy']:.2%}",
            better="higher",
        )
    if found := figures.get("transfer"):
        group = "transfer" + (" (untrusted: judges below their bar)" if "transfer" in untrusted else "")
        add(group, "swaps read as the class asked for", f"{found['transfer_accuracy']:.2%}", "transfer", "higher")
        worst = min(range(len(found["by_class"])), key=lambda c: found["by_class"][c])
        add(group, "worst class", f"{found['by_class'][worst]:.2%} ({record['class_names'][worst]})", better="higher")
        judged = ", ".join(f"{a:.2%}" for a in found["judge_accuracy"])
        add(group, f"judges on real images (bar {found['judge_threshold']:.1%})", judged)
    if found := figures.get("style"):
        for name, r in found["correlation"].items():
            ceiling = found["ceiling"][name]
            value = f"{_number(r)} (reconstruction {_number(ceiling)})"
            add("style kept by swaps, r", name.replace("_", " "), value, name, "higher")
        for ground in ("background", "foreground"):
            if f"{ground}_delta_e" in found:
                add(
                    "style kept by swaps",
                    f"{ground} colour, Delta E",
                    f"{found[f'{ground}_delta_e']:.2f}",
                    better="lower",
                )
        if found.get("swaps_without_stroke"):
            add(
                "style kept by swaps, r", "swaps without any stroke", str(found["swaps_without_stroke"]), better="lower"
            )
    if found := figures.get("counterfactual"):
        group = "counterfactual (true picture known)"
        add(group, "MSE", f"{found['mse']:.5f}", better="lower")
        add(group, "PSNR, SSIM", f"{found['psnr']:.2f} dB, {found['ssim']:.4f}", better="higher")
    if found := figures.get("composition"):
        value = f"{found['l1_after_1']:.2f}, {found['l1_after_10']:.2f}"
        add("composition", "L1 after 1, 10 null swaps (0..255)", value, "composition", "lower")
        add("composition", "read as their class after 10", f"{found['accuracy_after_10']:.2%}", better="higher")
    if found := figures.get("reversibility"):
        for prefix, name in (("", "there and back"), ("blurred_", "there, blurred, and back")):
            value = f"MSE {found[prefix + 'mse']:.4f}, r2 {_number(found[prefix + 'r2'])}"
            add("reversibility", name, value, "" if prefix else "reversibility", "lower")
    if found := figures.get("realism"):
        group = "realism" + (" (untrusted: judges below their bar)" if "realism" in untrusted else "")
        value = f"{found['frechet_distance']:.2f} (real {found['frechet_distance_real_images']:.2f}, redrawn {found['frechet_distance_reconstructions']:.2f})"
        add(group, "Frechet distance", value, better="lower")
        add(group, "precision, recall", f"{found['precision']:.2%}, {found['recall']:.2%}", better="higher")
    for name, reason in record["left_out"].items():
        add(name, "left out", reason)
    cost = record["cost"]
    speeds = f"{cost['encode_images_per_s']:,.0f}, {cost['decode_images_per_s']:,.0f} images/s"
    add("cost", "encode, decode", f"{speeds} on {cost['device']}")
    add("cost", "parameters", f"{cost['parameters']:,}")
    return result


def as_text(record: dict[str, Any]) -> str:
    found = table_rows(record)
    names, values = max(len(row.name) for row in found), max(len(row.value) for row in found if len(row.value) < 60)
    data, protocol = record["data"], record["protocol"]["name"]
    lines = [
        f"step {record['step']}, {data['name']} ({data['test']:,} test images), bottleneck {record['bottleneck']}, "
        f"{protocol} protocol"
    ]
    group = None
    for row in found:
        if row.group != group:
            lines.append(row.group)
            group = row.group
        lines.append(f"  {row.name:<{names}}  {row.value:<{values}}  {row.reference}".rstrip())
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
