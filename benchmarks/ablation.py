"""What each part of the recipe is worth: trains variants of a configuration, evaluates them in full, prints a table.

    python benchmarks/ablation.py run --data_dir=path/to/tfds   # MNIST; hours; goes on where it stopped
    python benchmarks/ablation.py run --rows default 'lambda 0.02' --seeds 0 1 2
    python benchmarks/ablation.py run --config=rendered
    python benchmarks/ablation.py table [--config=rendered] [--picture=tradeoff.png]

Each run is what `python launch.py --config=... --config.FIELD=VALUE --config.evaluate.at_end=full` gives. Runs share
what they train alike: one with the same settings of the autoencoder (and of the alignment) begins from its checkpoint.
The autoencoder's training does not see whether an alignment follows.
"""

import argparse
import dataclasses
import importlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from infoae_jax.config import Config, differences, parse
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, open_run, read_info, read_record
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import environment
from infoae_jax.training.state import TrainState, init_state

HERE = Path(__file__).parent
_BEGUN = ".begun"  # ends the name of a folder that is not yet a run
_OFF = {"model.couplings": 0, "refine.epochs": 0}
# Name of a row: what it changes of the default recipe. 'paper': its recipe, with 15 of its 300 epochs, as MNIST's.
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "ordinary autoencoder (lambda 0, nothing after it)": {"train.lambda_adv": 0.0} | _OFF,
    "paper's recipe, lambda 0.001": {"variant": "paper", "train.epochs": 15},
    "paper's recipe, lambda 0.002": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.002},
    "paper's recipe, lambda 0.003": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.003},
    "paper's recipe, lambda 0.01": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.01},
    "adversary only: no alignment, no refinement": _OFF,
    "no refinement": {"refine.epochs": 0},
    "refinement without swaps": {
        "refine.style_weight": 0.0,
        "refine.cycle_weight": 0.0,
        "refine.content_weight": 0.0,
    },
    "refinement without its cycle term": {"refine.cycle_weight": 0.0},
    "refinement without its style term": {"refine.style_weight": 0.0},
    "refinement without its content term": {"refine.content_weight": 0.0},
    "classifier sees swaps with noise": {"refine.content_noise": 0.1},
    "classifier sees swaps without noise": {"refine.content_noise": 0.0},
    "content classifier sees shifted images": {"train.content_shift": 2},
    "content classifier sees images as they are": {"train.content_shift": 0},
    "10 epochs": {"train.epochs": 10},
    "nothing encoded again in the first phase": {"train.cycle_weight": 0.0},
    "alignment to the normal distribution": {"model.reference_couplings": 0},
    "alignment to a distribution of 4 couplings": {"model.reference_couplings": 4},
    "alignment to a distribution of 10 couplings": {"model.reference_couplings": 10},
    "alignment without its adversary": {"alignment.lambda_adv": 0.0},
    "alignment without its style term": {"alignment.style_weight": 0.0},
    "lambda 0 (alignment does it all)": {"train.lambda_adv": 0.0},
    "lambda 0.001": {"train.lambda_adv": 0.001},
    "lambda 0.002": {"train.lambda_adv": 0.002},
    "lambda 0.005": {"train.lambda_adv": 0.005},
    "lambda 0.01": {"train.lambda_adv": 0.01},
    "lambda 0.02": {"train.lambda_adv": 0.02},
    "the rate does not rise at first": {"train.learning_rate_schedule": "cosine"},
    "the rate does not fall to 0": {"train.learning_rate_schedule": "constant"},
    "one adversary step": {"train.adversary_steps": 1},
    "constant lambda": {"train.lambda_schedule": "constant"},
    "latent on the sphere": {"model.latent": "sphere"},
    "unbounded latent": {"model.latent": "unbounded"},
}


def folder_of(out: Path, row: str, seed: int | str) -> Path:
    return out / f"{row.replace(' ', '_').replace(',', '').replace(':', '')}-seed{seed}"


def config_of(row: str, seed: int, data_dir: str, config: str) -> tuple[Config, list[str]]:
    """The configuration of a row, and the options of launch.py that give it.

    Args:
      config: name of a file in configs/, with variants behind a colon if wanted: 'mnist', 'rendered:tiny'.
    """
    changes = dict(ROWS[row])
    name, _, variants = config.partition(":")
    variant = ",".join(filter(None, (changes.pop("variant", ""), variants)))
    values = importlib.import_module(f"configs.{name}").get_config(variant)
    changes |= {"train.seed": seed, "evaluate.at_end": "full", "checkpoint.keep": 1000}
    if data_dir:
        changes["data.dir"] = data_dir
    for field, value in changes.items():
        values.update_from_flattened_dict({field: value})
    options = [f"--config.{field}={value}" for field, value in changes.items()]
    file = f"--config={HERE.parent / 'configs' / name}.py" + (f":{variant}" if variant else "")
    return parse(values), [file, *options]


def run_all(arguments: argparse.Namespace) -> None:
    for row in arguments.rows:
        for seed in arguments.seeds:
            config, options = config_of(row, seed, arguments.data_dir, arguments.config)
            if row != "default" and config == config_of("default", seed, arguments.data_dir, arguments.config)[0]:
                continue  # what this row changes is so by default in this configuration
            folder = folder_of(arguments.out, row, seed)
            if (folder / "config.json").exists():
                if changed := differences(read_info(folder).config, config):
                    sys.exit(f"error: {folder} is a run of other settings: {'; '.join(changed)}. Choose another --out.")
            elif not folder.exists():
                borrow(arguments.out, config, folder)
            if is_done(folder):
                continue
            print(f"== {row}, seed {seed}", flush=True)
            done = subprocess.run([sys.executable, HERE.parent / "launch.py", *options, f"--workdir={folder}"])
            if not is_done(folder):  # stopped, or failed
                sys.exit(done.returncode or 1)


def is_done(folder: Path) -> bool:
    """Whether a run was evaluated, or diverged, which the table shows."""
    return (folder / "evaluation.json").exists() or bool(read_metrics(folder, "diverged"))


def borrow(out: Path, config: Config, folder: Path) -> None:
    """Begins `folder` where its training parts from that of another run in `out`, if one has begun in the same way."""
    runs = sorted(path.parent for path in out.glob("*/config.json") if path.parent.suffix != _BEGUN)
    shared = ((shared_steps(run, config), read_info(run).config.model == config.model, run) for run in runs)
    step, _, other = max(shared, default=(0, False, out))  # of equals, one whose state can be taken as it is
    if not step:
        return
    print(f"{folder.name} begins from step {step} of {other.name}", flush=True)
    begun = folder.with_name(folder.name + _BEGUN)
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    info_there = read_info(other)
    info = dataclasses.replace(info_there, config=config)
    open_run(begun, info, read_record(other)["environment"]["device"])
    if config.model == info_there.config.model:
        shutil.copytree(other / "checkpoints" / str(step), begun / "checkpoints" / str(step))
    else:
        adopt(other, info_there, step, begun, info)
    before = [line for line in read_metrics(other) if line["step"] <= step and line["kind"] != "end"]
    (begun / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in before))
    begun.rename(folder)


def adopt(other: Path, there: RunInfo, step: int, folder: Path, here: RunInfo) -> None:
    """Saves the state of another run's step in `folder`, with a fresh alignment of its own, if any."""

    def fresh(info: RunInfo) -> TrainState:
        config = info.config
        model = build(config.model, info.image_shape, len(info.class_names), config.train.dtype)
        return init_state(model, config.train.seed)

    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(lambda: fresh(there))
    )
    with Checkpoints(other) as checkpoints:
        restored = checkpoints.restore(abstract, step)
    assert restored, f"no checkpoint of step {step} in {other}"
    state, mine = restored[1], jax.jit(lambda: fresh(here))()  # compiled, as `fit` does it
    params, opt_state = (
        {name: value if name == "alignment" else trained[name] for name, value in own.items()}
        for trained, own in ((state.params, mine.params), (state.opt_state, mine.opt_state))
    )
    with Checkpoints(folder, keep=1, wait=True) as checkpoints:
        checkpoints.save(step, dataclasses.replace(state, params=params, opt_state=opt_state))


def shared_steps(run: Path, wanted: Config) -> int:
    """How many steps `run` and a run of the configuration `wanted` take alike: up to the end of a phase, kept there.

    0 if `run` is of other code.
    """
    if read_record(run)["environment"]["code"]["source"] != environment()["code"]["source"]:
        return 0
    config, shared = read_info(run).config, 0
    couplings: dict[str, Any] = {
        name: getattr(wanted.model, name) for name in ("couplings", "coupling_hidden", "reference_couplings")
    }
    but_for_couplings = dataclasses.replace(config, model=dataclasses.replace(config.model, **couplings))
    for section, kind, theirs, sections in (
        ("train", "epoch", but_for_couplings, ("data", "model", "train")),
        ("alignment", "align", config, ("model", "alignment")),
    ):
        if any(getattr(theirs, name) != getattr(wanted, name) for name in sections):
            break
        epochs = getattr(wanted, section).epochs
        ends = [line["step"] for line in read_metrics(run, kind) if line["epoch"] == epochs]
        if ends and (run / "checkpoints" / str(ends[-1])).exists():
            shared = ends[-1]
    return shared


@dataclasses.dataclass(frozen=True)
class Figure:
    """A column of the table: where it stands in an evaluation's figures, and how it is written."""

    title: str
    path: tuple[str, ...]
    form: str = "{:.3f}"
    scale: float = 1


FIGURES = (
    Figure("leakage %", ("leakage", "probe_accuracy"), "{:.1f}", 100),
    Figure("training codes %", ("leakage", "training_codes_accuracy"), "{:.1f}", 100),
    Figure("MSE", ("reconstruction", "mse"), "{:.4f}"),
    Figure("transfer %", ("transfer", "transfer_accuracy"), "{:.1f}", 100),
    Figure("slant", ("style", "correlation", "slant"), "{:.2f}"),
    Figure("thickness", ("style", "correlation", "thickness"), "{:.2f}"),
    Figure("area", ("style", "correlation", "area"), "{:.2f}"),
    Figure("composition 1", ("composition", "l1_after_1"), "{:.1f}"),
    Figure("10", ("composition", "l1_after_10"), "{:.1f}"),
    Figure("reversibility", ("reversibility", "mse"), "{:.4f}"),
)


def results(out: Path) -> dict[str, list[dict[str, Any] | str]]:
    """For each row that was run: an evaluation for each seed, or why there is none."""
    found: dict[str, list[dict[str, Any] | str]] = {}
    for row in ROWS:
        for folder in sorted(out.glob(folder_of(Path(), row, "*").name)):
            lines = read_metrics(folder, "diverged")
            if (folder / "evaluation.json").exists():
                found.setdefault(row, []).append(json.loads((folder / "evaluation.json").read_text()))
            elif lines:
                found.setdefault(row, []).append(f"diverged at step {lines[-1]['step']}")
    return found


def value(evaluation: dict[str, Any], figure: Figure) -> float | None:
    """None where the evaluation left the figure out."""
    found: Any = evaluation["figures"]
    for key in figure.path:
        found = (found or {}).get(key)
    return None if found is None else figure.scale * found


def spread(evaluations: list[dict[str, Any]], figure: Figure) -> str:
    """Mean over the runs that have the figure, and standard deviation where there are several."""
    values = [v for v in (value(e, figure) for e in evaluations) if v is not None]
    if not values:
        return ""
    form = figure.form
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def print_table(out: Path) -> None:
    found = results(out)
    print("| recipe | seeds | " + " | ".join(figure.title for figure in FIGURES) + " |")
    print("|---" * (len(FIGURES) + 2) + "|")
    for row, evaluations in found.items():
        good = [e for e in evaluations if not isinstance(e, str)]
        bad = [e for e in evaluations if isinstance(e, str)]
        cells = [spread(good, figure) for figure in FIGURES] if good else [""] * len(FIGURES)
        cells[0] = ", ".join(filter(None, [cells[0], *bad]))
        print(f"| {row} | {len(evaluations)} | " + " | ".join(cells) + " |")
    codes = {e["environment"]["code"]["source"] for es in found.values() for e in es if not isinstance(e, str)}
    if len(codes) > 1:
        print(f"\nThese rows are of {len(codes)} versions of the code.")


# Of MNIST. Cycle-VAE: its released model; 'class means': of the image's class, 'PCA-16' of what they leave. The
# style is the mean of three correlations.
_CYCLE_VAE = {"leakage": 78.5, "mse": 0.0531, "style": (0.82 + 0.56 + 0.68) / 3}
_CHANCE = 11.35
_REPORTED = {"Cycle-VAE": 17.56, "Mathieu et al. 2016": 66.83, "Szabó et al. 2018": 96.08}  # by Jha et al. 2018
_CLASS_MEANS, _CLASS_MEANS_AND_PCA = 0.0529, 0.0256
# Rows that the picture names, in its words, and how many points above them; the others are small.
_NAMED = {
    "ordinary autoencoder (lambda 0, nothing after it)": ("ordinary autoencoder", 16),
    "paper's recipe, lambda 0.001": ("paper's recipe", -9),
    "adversary only: no alignment, no refinement": ("adversary only", 5),
}


def along_lambda(rows: Iterable[str]) -> dict[str, float]:
    """Those of `rows` that change nothing but MNIST's lambda, and what it is there, rising."""
    default = config_of("default", 0, "", "mnist")[0].train.lambda_adv
    found = {row: ROWS[row].get("train.lambda_adv", default) for row in rows if set(ROWS[row]) <= {"train.lambda_adv"}}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def draw(out: Path, picture: Path) -> None:
    """MNIST: leakage against error and against style; recipes as points, lambda along a line, other systems."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.transforms import ScaledTranslation

    by_title = {figure.title: figure for figure in FIGURES}
    parts = [by_title[name] for name in ("leakage %", "MSE", "slant", "thickness", "area")]
    points: dict[str, tuple[float, float, float]] = {}  # leakage, MSE, style
    for row, evaluations in results(out).items():
        good = [e for e in evaluations if not isinstance(e, str)]
        values = [[value(e, figure) for e in good] for figure in parts]
        if good and all(v is not None for row_values in values for v in row_values):
            leak, mse, *style = (statistics.mean(v or 0.0 for v in row_values) for row_values in values)
            points[row] = leak, mse, statistics.mean(style)
    curve = along_lambda(points)

    figure, (errors, styles) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=150, sharex=True)
    for axes, which, name in (
        (errors, 1, "reconstruction error (MSE)"),
        (styles, 2, "style kept (mean r of slant, thickness, area)"),
    ):
        axes.axvline(_CHANCE, color="black", linewidth=0.7, linestyle=":")
        for level in _REPORTED.values():
            axes.axvline(level, color="tab:red", linewidth=0.7, linestyle=":")
        axes.plot(
            _CYCLE_VAE["leakage"],
            _CYCLE_VAE["mse" if which == 1 else "style"],
            "X",
            color="tab:red",
            label="Cycle-VAE, its released model",
        )
        for row, point in points.items():
            if row not in curve:
                axes.plot(point[0], point[which], "s", color="tab:gray", markersize=4 if row in _NAMED else 2.5)
            if row in _NAMED:
                words, above = _NAMED[row]
                axes.annotate(
                    words,
                    (point[0], point[which]),
                    fontsize=7,
                    color="dimgray",
                    ha="left" if point[0] < 50 else "right",
                    xytext=(0, above),
                    textcoords="offset points",
                )
        axes.plot(
            [points[row][0] for row in curve],
            [points[row][which] for row in curve],
            "o-",
            color="tab:blue",
            markersize=4,
            label="infoae_jax, lambda along the line",
        )
        heights = {row: points[row][which] for row in curve}
        middle = [statistics.median(points[row][i] for row in curve) for i in (0, which)]
        for i, row in enumerate(sorted(curve, key=heights.__getitem__)):
            axes.annotate(  # beside one another, as the points are close
                f"{curve[row]:g}",
                xy=(points[row][0], heights[row]),
                xytext=(middle[0] + 12, middle[1]),
                textcoords=axes.transData
                + ScaledTranslation(0, (i - (len(curve) - 1) / 2) * 11 / 72, figure.dpi_scale_trans),
                fontsize=7,
                color="tab:blue",
                va="center",
                arrowprops={"arrowstyle": "-", "color": "tab:blue", "linewidth": 0.5},
            )
        axes.set(xlabel="class read from the latent, % (best of four probes)", ylabel=name, xlim=(8, 102))
        axes.spines[["top", "right"]].set_visible(False)
    for level, name in ((_CLASS_MEANS, "class means"), (_CLASS_MEANS_AND_PCA, "class means + PCA-16")):
        errors.axhline(level, color="black", linewidth=0.7, linestyle=":")
        errors.annotate(name, (25, level), fontsize=7, xytext=(0, 2), textcoords="offset points")
    errors.annotate(
        "chance",
        (_CHANCE, 0.048),
        fontsize=7,
        rotation=90,
        ha="right",
        va="top",
        xytext=(-1, 0),
        textcoords="offset points",
    )
    for name, level in _REPORTED.items():
        right = level < 50
        errors.annotate(
            f"{name}, as reported",
            (level, 0.048),
            fontsize=7,
            rotation=90,
            va="top",
            ha="left" if right else "right",
            color="tab:red",
            xytext=(2 if right else -1, 0),
            textcoords="offset points",
        )
    errors.set(yscale="log", ylim=(0.006, 0.065), yticks=(0.01, 0.02, 0.05), yticklabels=("0.01", "0.02", "0.05"))
    errors.yaxis.set_minor_formatter("")
    styles.set(ylim=(0.4, 1.0))
    styles.legend(framealpha=1, edgecolor="white", fontsize=7.5, loc="lower right")
    figure.tight_layout()
    figure.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--out", type=Path, help="for the runs; else runs/ablation_CONFIG")
    parser.add_argument("--config", default="mnist", help="file in configs/, with its variants: 'rendered:tiny'")
    parser.add_argument("--data_dir", default="", help="where TFDS finds the data set, if not in its own folder")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--picture", type=Path, help="MNIST: also draw error and style against leakage")
    arguments = parser.parse_args()
    if arguments.out is None:
        arguments.out = Path("runs") / f"ablation_{arguments.config.replace(':', '_').replace(',', '_')}"
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the runs, which are processes of their own
    if arguments.what == "run":
        arguments.out.mkdir(parents=True, exist_ok=True)
        run_all(arguments)
    print_table(arguments.out)
    if arguments.picture:
        draw(arguments.out, arguments.picture)


if __name__ == "__main__":
    main()
