"""Measures other methods on MNIST as `infoae evaluate` measures ours, and prints them as one table.

    python benchmarks/baselines.py tune --data_dir=path/to/tfds --writers=path/to/mnist_writers.npz
    python benchmarks/baselines.py run --data_dir=... --writers=... --rivals=path/to/weights --seeds 0 1 2
    python benchmarks/baselines.py table --ablation=runs/ablation_mnist --plot=tradeoff.png
    python benchmarks/baselines.py time --data_dir=...    # on an idle machine

`run` measures what is missing: a JSON file in --out for each row and seed. Rows of three kinds:

* models that their authors released (`baselines_released.py`, which says where their weights come from: --rivals);
* methods trained here around our encoder and decoder (`baselines_trained.py`). `tune` first trains each with every
  setting of theirs on 85 % of the writers, in fewer epochs; what is best on the images of the others is what `run`
  takes;
* controls that know nothing but the class.

--writers: the writers of MNIST's images, an .npz file with whole numbers in `train` and `test` (QMNIST has them).
`table --ablation` adds our recipe and the paper's from the runs of `ablation.py`.
"""

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from benchmarks import ablation
from benchmarks.baselines_maps import FitMap, erase_linearly, transport_to_barycentre
from benchmarks.baselines_plot import plot
from benchmarks.baselines_released import MODELS, released_system
from benchmarks.baselines_trained import RECIPES, Setting, load_or_train, seconds_per_epoch, trained_system
from configs import mnist
from infoae_jax.config import Config, parse
from infoae_jax.data.dataset import Splits
from infoae_jax.data.groups import load_groups
from infoae_jax.data.load import load_splits
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.devices.setup import set_up
from infoae_jax.errors import UserError
from infoae_jax.evaluation.judges import Judges, load_judges
from infoae_jax.evaluation.measure import measure
from infoae_jax.evaluation.metrics import FIGURES, Groups, System
from infoae_jax.evaluation.record import FULL, QUICK, Protocol
from infoae_jax.files import write_atomically
from infoae_jax.images.pixels import to_float
from infoae_jax.runs.provenance import environment
from infoae_jax.types import Json

HELD_OUT = 0.15  # share of the writers whose images choose the settings
EPOCHS, TUNING_EPOCHS = 13, 6  # ours has 10
TUNED_BY = "leakage", "reconstruction", "transfer", "style"
CLASS_MEANS_MSE = 0.0529  # of the row 'class means'


class Bench(NamedTuple):
    """What all rows are made from."""

    config: Config
    splits: Splits
    mesh: Mesh
    judges: Judges
    out: Path
    rivals: Path | None = None


class Row(NamedTuple):
    """A row of what is trained here: a method, and what becomes of its latents."""

    recipe: str
    sampled: bool = False
    fit_map: FitMap | None = None
    setting: Setting | None = None  # by default the best


TRAINED = {
    "conditional autoencoder": Row("conditional"),
    "conditional autoencoder, LEACE": Row("conditional", fit_map=erase_linearly),
    "conditional autoencoder, optimal transport": Row("conditional", fit_map=transport_to_barycentre),
    "conditional VAE, mean code": Row("variational"),
    "conditional VAE, sampled code": Row("variational", sampled=True),
    "conditional VAE, weight 2, mean code": Row("variational", setting=Setting(4e-3, 2)),
    "conditional VAE, weight 2, sampled code": Row("variational", sampled=True, setting=Setting(4e-3, 2)),
    "Fader's adversary": Row("fader"),
    "Y-AE's losses": Row("y"),
    "Cycle-VAE's cycles, mean code": Row("cycle"),
    "Cycle-VAE's cycles, sampled code": Row("cycle", sampled=True),
    "ordinary autoencoder, no label": Row("ordinary"),
}
RELEASED = {
    f"released: {name}" + (", sampled code" if sampled else ""): (model, sampled)
    for name, model in MODELS.items()
    for sampled in (False, True)
    if not sampled or "log_variance" in model.parts
}
CLASS_MEANS, NEAREST = "class means", "the image nearest to the class mean"
CONTROLS = CLASS_MEANS, NEAREST
ROWS = (*RELEASED, *TRAINED, *CONTROLS)


def control(name: str, splits: Splits) -> System:
    """Knows nothing but the class: no leakage, no style. Judges read what is an image, not a mean of images."""
    images, labels = to_float(splits.train.images), splits.train.labels
    answers = []
    for c in range(len(splits.train.class_names)):
        members = images[labels == c]
        mean = members.mean(0)
        nearest = ((members - mean) ** 2).sum((1, 2, 3)).argmin()
        answers.append(mean if name == CLASS_MEANS else members[nearest])
    shown = np.stack(answers)
    return System(lambda images: np.zeros((len(images), 1), np.float32), lambda z, labels: shown[labels])


def make_row(name: str, seed: int, bench: Bench) -> tuple[System, Json]:
    """The system of a row, and the settings that it was trained with, if it was trained here."""
    if name in CONTROLS:
        return control(name, bench.splits), {}
    if name in RELEASED:
        if bench.rivals is None:
            raise UserError(f"{name!r} needs the released weights: give their folder with --rivals.")
        model, sampled = RELEASED[name]
        return released_system(model, bench.rivals, bench.splits.train, bench.mesh, sampled), {}
    row = TRAINED[name]
    setting = row.setting or best_setting(row.recipe, bench.out)
    return train_row(row, setting, seed, bench, bench.out / "weights"), setting._asdict()


def train_row(row: Row, setting: Setting, seed: int, bench: Bench, folder: Path) -> System:
    """The system of a row that is trained here, on the training images."""
    recipe, data = RECIPES[row.recipe], bench.splits.train
    path = folder / f"{file_name(row.recipe, setting)}-seed{seed}.msgpack"
    params = load_or_train(path, recipe, bench.config, data, setting, seed, bench.mesh)
    return trained_system(recipe, bench.config, data, params, bench.mesh, row.sampled, row.fit_map)


def file_name(recipe: str, setting: Setting) -> str:
    return f"{recipe}-rate{setting.learning_rate:g}-weight{setting.weight:g}"


def result_file(out: Path, row: str, seed: int | str) -> Path:
    """The file of a row and a seed ('*' for a pattern) below `out`."""
    folder = ablation.folder_of(out, row, seed)
    return folder.with_name(f"{folder.name}.json")


def run_all(rows: list[str], seeds: list[int], bench: Bench, groups: Groups, protocol: Protocol = FULL) -> None:
    """Measures what is missing; rows that are not trained here have one seed only."""
    for name in rows:
        for seed in seeds if name in TRAINED else seeds[:1]:
            path = result_file(bench.out, name, seed)
            if path.exists():
                continue
            print(f"== {name}, seed {seed}", flush=True)
            system, settings = make_row(name, seed, bench)
            write_json(path, measure_row(system, bench, groups, protocol) | {"settings": settings})


def measure_row(
    system: System, bench: Bench, groups: Groups, protocol: Protocol, names: tuple[str, ...] = tuple(FIGURES)
) -> Json:
    """What `measure` returns, with versions; or why nothing can be measured."""
    if not np.isfinite(system.encode(bench.splits.test.images[:100])).all():
        return {"diverged": True, "environment": environment()}
    measured = measure(
        system, bench.splits, bench.judges, protocol, names, groups, functools.partial(print, flush=True)
    )
    return {**measured, "environment": environment()}


def write_json(path: Path, record: Json) -> None:
    tidy = json.loads(json.dumps(record), parse_constant=lambda _: None)  # JSON has no NaN
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(tidy, indent=1) + "\n").encode())


def hold_out(splits: Splits, writers: np.ndarray) -> Splits:
    """The training images, cut in two by their writers: for training, and to choose settings by."""
    known = np.unique(writers)
    held = np.random.default_rng(0).permutation(known)[: round(HELD_OUT * len(known))]
    is_held = np.isin(writers, held)
    train, test = (splits.train[np.flatnonzero(rows)] for rows in (~is_held, is_held))
    return Splits(train, test, f"{splits.fingerprint}, writers held out")


def tune(recipes: list[str], bench: Bench, protocol: Protocol = QUICK) -> None:
    """Trains and measures each method with each of its settings, on the splits of `bench`."""
    for name in recipes:
        row = next(row for row in TRAINED.values() if row.recipe == name)
        for setting in RECIPES[name].settings:
            path = bench.out / "tuning" / f"{file_name(name, setting)}.json"
            if not path.exists():
                print(f"== tuning {path.stem}", flush=True)
                system = train_row(row, setting, 0, bench, bench.out / "tuning")
                measured = measure_row(system, bench, None, protocol, TUNED_BY)
                write_json(path, measured | {"settings": setting._asdict()})
            found = json.loads(path.read_text())
            print(f"{path.stem}: score {score(found):.3f}", flush=True)


def score(record: Json) -> float:
    """What settings are chosen by: transfer accuracy + style kept - leakage above chance - error, each about 0 to 1.

    Class means get 0, as error and transfer cancel out; an ordinary autoencoder, which keeps all style, less.
    """
    if "diverged" in record:
        return -float("inf")
    figures = record["figures"]
    leakage, kept = figures["leakage"], figures["style"]["correlation"]
    style = np.mean([kept[name] or 0.0 for name in ("slant", "thickness", "area")])
    excess = (leakage["probe_accuracy"] - leakage["chance"]) / (1 - leakage["chance"])
    error = figures["reconstruction"]["mse"] / CLASS_MEANS_MSE
    return float(figures["transfer"]["transfer_accuracy"] + style - excess - error)


def best_setting(recipe: str, out: Path) -> Setting:
    """The setting that `tune` found best, if there are several."""
    settings = RECIPES[recipe].settings
    if len(settings) == 1:
        return settings[0]
    try:
        scores = [
            score(json.loads((out / "tuning" / f"{file_name(recipe, setting)}.json").read_text()))
            for setting in settings
        ]
    except FileNotFoundError as error:
        raise UserError(f"{recipe!r} is not tuned: {error.filename!r} is missing. First: baselines.py tune") from error
    return settings[int(np.argmax(scores))]


def _leakage(title: str, protocol: str) -> ablation.Column:
    return ablation.Column(title, ("leakage", "highest", protocol), "{:.1f}", 100)


COLUMNS = (
    _leakage("leakage (a) %", "fitted_on_training_codes"),
    _leakage("(b) %", "folds_by_group"),
    _leakage("(c) %", "folds_at_random"),
    *(column for column in ablation.COLUMNS if column.path[0] != "leakage"),
)


def results(out: Path, runs: Path | None) -> dict[str, list[ablation.Result]]:
    """The results of each row; of the ablation's `runs`, our recipe and the paper's."""
    found: dict[str, list[ablation.Result]] = {}
    if runs is not None:
        known = ablation.results(runs)
        found |= {"ours": known["default"]} if "default" in known else {}
        found |= {row: known[row] for row in known if row.startswith("paper's recipe")}
    for name in ROWS:
        for path in sorted(out.glob(result_file(Path(), name, "*").name)):
            record = json.loads(path.read_text())
            found.setdefault(name, []).append("diverged" if "diverged" in record else record)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tune", "run", "time", "table"])
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"), help="folder for the results")
    parser.add_argument("--data_dir", default="", help="where TFDS finds MNIST; default: its own folder")
    parser.add_argument("--writers", default="", help="the writers of MNIST's images, an .npz file")
    parser.add_argument("--rivals", type=Path, help="folder of the released weights")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ablation", type=Path, help="folder of the ablation's runs, to show ours in the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also plot error and style against leakage")
    arguments = parser.parse_args()
    try:
        if arguments.command != "table":
            work(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    if arguments.command == "time":
        return
    found = results(arguments.out, arguments.ablation)
    ablation.print_table({f"{i} {name}": found[name] for i, name in enumerate(found, 1)}, COLUMNS)
    if arguments.plot:
        plot(found, arguments.plot)


def work(arguments: argparse.Namespace) -> None:
    """`tune`, `run` and `time`."""
    values = mnist.get_config()
    values.data.dir, values.train.epochs = arguments.data_dir, EPOCHS
    config = parse(values)
    set_up(config.train.batch_size, onednn=True)
    mesh = data_mesh()
    splits = load_splits(config.data)
    recipes = dict.fromkeys(TRAINED[row].recipe for row in arguments.rows if row in TRAINED)
    if arguments.command == "time":
        for name in recipes:
            print(f"{name}: {seconds_per_epoch(RECIPES[name], config, splits.train, mesh):.1f} s per epoch", flush=True)
        return
    bench = Bench(config, splits, mesh, load_judges(config.data, splits, mesh), arguments.out, arguments.rivals)
    if arguments.command == "run":
        run_all(arguments.rows, arguments.seeds, bench, load_groups(arguments.writers, config.data, splits))
        return
    if not arguments.writers:
        raise UserError("tune needs --writers, of whom it holds some out.")
    writers = np.load(arguments.writers)["train"]
    several = [name for name in recipes if len(RECIPES[name].settings) > 1]
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=TUNING_EPOCHS))
    tune(several, bench._replace(config=short, splits=hold_out(splits, writers)))


if __name__ == "__main__":
    main()
