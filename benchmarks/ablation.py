"""Measures what each part of the recipe is worth: trains variants of it, evaluates them in full, prints a table.

    python benchmarks/ablation.py run --data_dir=path/to/tfds   # MNIST; takes hours; resumes where it stopped
    python benchmarks/ablation.py run --rows default 'lambda 0.02' --seeds 0 1 2
    python benchmarks/ablation.py run --config=rendered
    python benchmarks/ablation.py table [--config=rendered]

Each run gives what `python launch.py --config=... --config.FIELD=VALUE --config.evaluate.at_end=full` gives.
A first phase that two runs train alike is trained once: the second run begins from the checkpoint of the first,
whatever alignment follows.
"""

import argparse
import dataclasses
import importlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import jax

from infoae_jax.config import Config, differences, parse
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.checkpoint import Checkpoints
from infoae_jax.runs.folder import RunInfo, open_run, read_info, read_record
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import code_version
from infoae_jax.training.autoencoder import AUTOENCODER
from infoae_jax.training.schedule import init_state
from infoae_jax.training.state import TrainState
from infoae_jax.types import Json

HERE = Path(__file__).parent
DRAFT_SUFFIX = ".begun"  # of a folder that is not yet a run
# Neither swaps nor alignment nor refinement.
ADVERSARY_ONLY: dict[str, str | float] = {"train.swap_weight": 0.0, "model.couplings": 0, "refine.epochs": 0}
# Settings that each row changes in the default recipe. The paper's recipe gets 15 of its 300 epochs.
ROWS: dict[str, dict[str, str | float]] = {
    "default": {},
    "ordinary autoencoder": {"train.lambda_adv": 0.0, **ADVERSARY_ONLY},
    "paper's recipe, lambda 0.001": {"variant": "paper", "train.epochs": 15},
    "paper's recipe, lambda 0.002": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.002},
    "paper's recipe, lambda 0.003": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.003},
    "paper's recipe, lambda 0.01": {"variant": "paper", "train.epochs": 15, "train.lambda_adv": 0.01},
    "adversary only": ADVERSARY_ONLY,
    "no alignment": {"model.couplings": 0},
    "no refinement": {"refine.epochs": 0},
    "a refinement of 3 epochs": {"refine.epochs": 3},
    "refinement without swaps": {"refine.style_weight": 0.0, "refine.cycle_weight": 0.0, "refine.swap_weight": 0.0},
    "refinement without its cycle term": {"refine.cycle_weight": 0.0},
    "refinement without its style term": {"refine.style_weight": 0.0},
    "refinement without its swap term": {"refine.swap_weight": 0.0},
    "autoencoder without its swap term": {"train.swap_weight": 0.0},
    "no swap term at all": {"train.swap_weight": 0.0, "refine.swap_weight": 0.0},
    "raw pixels": {"train.standardise": False},
    "plain rectifiers": {"model.leak": 0.0},
    "images shifted by up to 2 pixels": {"train.shift": 2},
    "images not shifted": {"train.shift": 0},
    "no views in the first phase": {"train.view_share": 0.0},
    "autoencoder with shifts and views, too": {"train.augment": "all"},
    "autoencoder without shifts and views": {"train.augment": "classifier"},
    "shallow content classifier": {"model.content": "shallow"},
    "deep content classifier": {"model.content": "deep"},
    "15 epochs": {"train.epochs": 15},
    "batches of 256": {"train.batch_size": 256},
    "alignment in batches of 1024": {"alignment.batch_size": 1024},
    "autoencoder without its cycle term": {"train.cycle_weight": 0.0},
    "alignment without views": {"alignment.views": 0},
    "alignment with views that are not matched": {"alignment.match_views": False, "alignment.views_share": 0.6},
    "alignment of 8 couplings": {"model.couplings": 8},
    "alignment of 24 couplings": {"model.couplings": 24},
    "alignment of 10 wide couplings": {"model.couplings": 10, "model.coupling_hidden": 256},
    "alignment to the normal distribution": {"model.reference_couplings": 0},
    "alignment to a distribution of 4 couplings": {"model.reference_couplings": 4},
    "alignment to a distribution of 10 couplings": {"model.reference_couplings": 10},
    "alignment without weight decay": {"alignment.weight_decay": 0.0},
    "alignment without its adversary": {"alignment.lambda_adv": 0.0},
    "alignment without its distance term": {"alignment.distance_weight": 0.0},
    "alignment without its style term": {"alignment.style_weight": 0.0},
    "lambda 0 (alignment does it all)": {"train.lambda_adv": 0.0},
    "lambda 0.001": {"train.lambda_adv": 0.001},
    "lambda 0.0025": {"train.lambda_adv": 0.0025},
    "lambda 0.005": {"train.lambda_adv": 0.005},
    "lambda 0.01": {"train.lambda_adv": 0.01},
    "lambda 0.02": {"train.lambda_adv": 0.02},
    "learning rate without warm-up": {"train.learning_rate_schedule": "cosine"},
    "constant learning rate": {"train.learning_rate_schedule": "constant"},
    "one adversary step": {"train.adversary_steps": 1},
    "constant lambda": {"train.lambda_schedule": "constant"},
    "latent in the ball": {"model.latent": "ball"},
    "latent on the sphere": {"model.latent": "sphere"},
    "unbounded latent": {"model.latent": "unbounded"},
}


Result: TypeAlias = Json | str  # an evaluation, or why there is none


def folder_of(out: Path, row: str, seed: int | str) -> Path:
    """Run folder of a row and a seed ('*' for a pattern) below `out`."""
    return out / f"{row.replace(' ', '_').replace(',', '').replace(':', '')}-seed{seed}"


def config_of(row: str, seed: int, data_dir: str, config: str) -> tuple[Config, list[str]]:
    """Makes the configuration of a row, and the options of launch.py for it.

    Args:
      row: a key of `ROWS`.
      seed: `train.seed`.
      data_dir: where TFDS finds the data set; '' for its default.
      config: name of a file in configs/, with variants after a colon if wanted: 'mnist', 'rendered:tiny'.
    """
    changes = dict(ROWS[row])
    name, _, variants = config.partition(":")
    variant = ",".join(filter(None, (str(changes.pop("variant", "")), variants)))
    values = importlib.import_module(f"configs.{name}").get_config(variant)
    changes |= {"train.seed": seed, "evaluate.at_end": "full", "checkpoint.keep": 1000}
    if data_dir:
        changes["data.dir"] = data_dir
    for field, value in changes.items():
        values.update_from_flattened_dict({field: value})
    options = [f"--config.{field}={value}" for field, value in changes.items()]
    file = f"--config={HERE.parent / 'configs' / name}.py" + (f":{variant}" if variant else "")
    return parse(values), [file, *options]


def changed_by(row: str, config: str) -> list[str]:
    """What a row changes in a configuration; without refinement, the settings of a refinement change nothing."""
    before, after = (config_of(name, 0, "", config)[0] for name in ("default", row))
    unread = () if after.refine.epochs else tuple(f"refine.{name}" for name in vars(after.refine) if name != "epochs")
    return [change for change in differences(before, after) if not change.startswith(unread)]


def run_all(arguments: argparse.Namespace) -> None:
    """Trains and evaluates what is missing of the rows and seeds that were asked for."""
    for row in arguments.rows:
        for seed in arguments.seeds:
            config, options = config_of(row, seed, arguments.data_dir, arguments.config)
            if row != "default" and not changed_by(row, arguments.config):
                continue
            folder = folder_of(arguments.out, row, seed)
            if (folder / "config.json").exists():
                if changed := differences(read_info(folder).config, config):
                    sys.exit(f"error: {folder} has other settings: {'; '.join(changed)}. Choose another --out.")
            elif not folder.exists():
                borrow(arguments.out, config, folder)
            if is_done(folder):
                continue
            print(f"== {row}, seed {seed}", flush=True)
            done = subprocess.run([sys.executable, HERE.parent / "launch.py", *options, f"--workdir={folder}"])
            if not is_done(folder):  # stopped, or failed
                sys.exit(done.returncode or 1)


def is_done(folder: Path) -> bool:
    """Whether a run was evaluated or diverged: the table shows both."""
    return (folder / "evaluation.json").exists() or bool(read_metrics(folder, "diverged"))


def borrow(out: Path, config: Config, folder: Path) -> None:
    """Starts `folder` from another run in `out` that trained the same autoencoder, if there is one."""
    runs = sorted(path.parent for path in out.glob("*/config.json") if path.parent.suffix != DRAFT_SUFFIX)
    step, other = max(((shared_steps(run, config), run) for run in runs), default=(0, out))
    if not step:
        return
    print(f"{folder.name} begins from step {step} of {other.name}", flush=True)
    draft = folder.with_name(folder.name + DRAFT_SUFFIX)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    source = read_info(other)
    info = dataclasses.replace(source, config=config)
    open_run(draft, info, read_record(other)["environment"]["device"])
    adopt(other, source, step, draft, info)
    before = [line for line in read_metrics(other) if line["step"] <= step and line["kind"] != "end"]
    (draft / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in before))
    draft.rename(folder)


def adopt(other: Path, source: RunInfo, step: int, folder: Path, target: RunInfo) -> None:
    """Saves another run's state in `folder`, with a fresh alignment in place of the other run's.

    Args:
      other: run folder to take the state from.
      source: what its config.json says.
      step: which of its checkpoints.
      folder: where to save the state.
      target: what config.json says there.
    """

    def fresh(info: RunInfo) -> TrainState:
        config = info.config
        return init_state(build(config.model, info.image_shape, len(info.class_names), config.train.dtype), config)

    with Checkpoints(other) as checkpoints:
        restored = checkpoints.restore(fresh(source), step)
    assert restored, f"no checkpoint of step {step} in {other}"
    mine, theirs = AUTOENCODER.merge(fresh(target), AUTOENCODER.carry(restored[1])), restored[1].variables["constants"]
    pixels = {name: value for name, value in theirs.items() if name != "alignment"}
    mine = dataclasses.replace(mine, variables=mine.variables | {"constants": mine.variables["constants"] | pixels})
    with Checkpoints(folder, keep=1, wait=True) as checkpoints:
        checkpoints.save(step, mine)


def shared_steps(run: Path, wanted: Config) -> int:
    """Number of steps of the first phase, if `run` has a checkpoint after it and shares it with `wanted`, or else 0.

    It does not if it was trained by other code.
    """
    config = read_info(run).config
    alike = dataclasses.replace(
        config.model,
        couplings=wanted.model.couplings,
        coupling_hidden=wanted.model.coupling_hidden,
        reference_couplings=wanted.model.reference_couplings,
    )
    if (config.data, alike, config.train) != (wanted.data, wanted.model, wanted.train):
        return 0
    if read_record(run)["environment"]["code"]["source"] != code_version()["source"]:
        return 0
    ends = [line["step"] for line in read_metrics(run, "autoencoder") if line["epoch"] == config.train.epochs]
    return ends[-1] if ends and (run / "checkpoints" / str(ends[-1])).exists() else 0


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
      title: its heading.
      path: keys that lead to its value among an evaluation's figures.
      form: format of the number.
      scale: factor applied before formatting.
    """

    title: str
    path: tuple[str, ...]
    form: str = "{:.3f}"
    scale: float = 1


COLUMNS = (
    Column("leakage %", ("leakage", "probe_accuracy"), "{:.1f}", 100),
    Column("within training codes %", ("leakage", "training_codes_accuracy"), "{:.1f}", 100),
    Column("MSE", ("reconstruction", "mse"), "{:.4f}"),
    Column("transfer %", ("transfer", "transfer_accuracy"), "{:.1f}", 100),
    Column("slant", ("style", "correlation", "slant"), "{:.2f}"),
    Column("thickness", ("style", "correlation", "thickness"), "{:.2f}"),
    Column("area", ("style", "correlation", "area"), "{:.2f}"),
    Column("composition 1", ("composition", "l1_after_1"), "{:.1f}"),
    Column("composition 10", ("composition", "l1_after_10"), "{:.1f}"),
    Column("reversibility", ("reversibility", "mse"), "{:.4f}"),
)


def results(out: Path) -> dict[str, list[Result]]:
    """Reads the results of each row that was run, one for each seed."""
    found: dict[str, list[Result]] = {}
    for row in ROWS:
        for folder in sorted(out.glob(folder_of(Path(), row, "*").name)):
            lines = read_metrics(folder, "diverged")
            if (folder / "evaluation.json").exists():
                found.setdefault(row, []).append(json.loads((folder / "evaluation.json").read_text()))
            elif lines:
                found.setdefault(row, []).append(f"diverged at step {lines[-1]['step']}")
    return found


def value(evaluation: Json, column: Column) -> float | None:
    """A figure of an evaluation; None where the evaluation left it out."""
    found = evaluation["figures"]
    for key in column.path:
        found = (found or {}).get(key)
    return None if found is None else column.scale * found


def mean_and_deviation(evaluations: list[Json], column: Column) -> str:
    """Mean over the runs that have the figure, and its standard deviation where there are several."""
    values = [v for v in (value(e, column) for e in evaluations) if v is not None]
    if not values:
        return ""
    mean = column.form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {column.form.format(statistics.stdev(values))}"


def print_table(found: dict[str, list[Result]], columns: Sequence[Column] = COLUMNS) -> None:
    """Prints the results of rows as a Markdown table."""
    print("| recipe | seeds | " + " | ".join(column.title for column in columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for row, evaluations in found.items():
        good = [e for e in evaluations if not isinstance(e, str)]
        bad = [e for e in evaluations if isinstance(e, str)]
        cells = [mean_and_deviation(good, column) for column in columns] if good else [""] * len(columns)
        cells[0] = ", ".join(filter(None, [cells[0], *bad]))
        print(f"| {row} | {len(evaluations)} | " + " | ".join(cells) + " |")
    codes = {e["environment"]["code"]["source"] for es in found.values() for e in es if not isinstance(e, str)}
    if len(codes) > 1:
        print(f"\nThese rows were measured with {len(codes)} versions of the code.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--out", type=Path, help="folder for the runs; default: runs/ablation_CONFIG")
    parser.add_argument(
        "--config", default="mnist", help="file in configs/, with variants if wanted: 'rendered:tiny'; default: mnist"
    )
    parser.add_argument("--data_dir", default="", help="where TFDS finds the data set; default: its own folder")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    if arguments.out is None:
        arguments.out = Path("runs") / f"ablation_{arguments.config.replace(':', '_').replace(',', '_')}"
    jax.config.update("jax_platforms", "cpu")  # leave the accelerators to the runs, which are separate processes
    if arguments.command == "run":
        arguments.out.mkdir(parents=True, exist_ok=True)
        run_all(arguments)
    print_table(results(arguments.out))


if __name__ == "__main__":
    main()
