"""Makes a model that comes with the package, and its card, from an evaluated run of a default recipe.

    python benchmarks/box.py runs/mnist mnist        # infoae_jax/boxed/mnist.npz and mnist.md
    python benchmarks/box.py runs/rendered rendered

The run needs its evaluation.json (`infoae evaluate`). Large kernels are rounded to 8 bits, the rest to 16, the
adversary is left out; what that costs is measured on all test images, and refused if it shows.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from configs import mnist, rendered
from infoae_jax.config import differences, parse
from infoae_jax.data.dataset import Dataset
from infoae_jax.devices.setup import set_up
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import read_evaluation
from infoae_jax.files import write_atomically
from infoae_jax.inference.load import model_of_npz, open_model
from infoae_jax.inference.model import Model
from infoae_jax.inference.npz import read_npz, write_npz
from infoae_jax.inference.run_data import NUM_EXAMPLES, example_images, load_run_data
from infoae_jax.inference.styles import NUM_EXPORTED
from infoae_jax.pretrained.find import FOLDER

MOST_BYTES = 2_000_000
_MOST_ERROR = 1.02  # of the reconstruction error, as a factor
_LEAST_ACCURACY = -0.002  # change of the content classifier's accuracy
_CONFIGS: dict[str, Any] = {"mnist": mnist, "rendered": rendered}
_DATA = {
    "mnist": "MNIST (LeCun, Cortes and Burges 1998): handwritten digits, 28x28 grey, white on black, centred by their "
    "mass. The example images in the file are of its test split. Y. LeCun and C. Cortes hold its copyright, and give "
    "it under the Creative Commons Attribution-Share Alike 3.0 licence.",
    "rendered": "The embedded data set of this package (`infoae_jax/rendered.py`): digits of 20 fonts, 32x32 RGB, "
    "drawn from a seed. The example images in the file are drawn by it too.",
}
_LIMITS = {
    "mnist": "It knows single digits, white on black, 20 pixels high and in the centre, as `infoae demo` and "
    "`--drawing` prepare them. Other symbols and several digits are drawn as the nearest digit it knows.",
    "rendered": "It knows printed digits of these fonts in the middle of the image. Photographs of house numbers "
    "are beyond it.",
}


def make(
    name: str,
    trained: Model,
    record: dict[str, Any],
    evaluation: dict[str, Any],
    test: Dataset,
    folder: Path,
) -> dict[str, Any]:
    """Writes NAME.npz and NAME.md into `folder`, and returns what the file says of itself.

    Args:
      record: config.json of the run. evaluation: its evaluation.json. test: all test images.

    Raises:
      UserError: if the file is too large, or worse than the run.
    """
    images, labels = example_images(trained.info, NUM_EXAMPLES, test)
    extras = {
        "styles/z": trained.style_bank.z[:NUM_EXPORTED],
        "styles/labels": trained.style_bank.labels[:NUM_EXPORTED],
        "examples/images": images,
        "examples/labels": labels,
    }
    out = folder / f"{name}.npz"
    draft = folder / f".{name}-draft.npz"
    figures: dict[str, Any] = {"evaluation": evaluation["figures"], "run": _measured(trained, test)}
    try:
        for _ in range(2):  # once to be measured, once with the figures in it
            about = {"step": trained.step, "figures": figures}
            write_npz(draft, trained.module, trained.variables, record, "int8", extras, about)
            saved = read_npz(draft)
            figures = {**figures, "boxed": _measured(model_of_npz(saved), test)}
        _check(draft, figures)
        write_atomically(folder / f"{name}.md", _card(name, trained, record, evaluation, figures).encode())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return saved.description


def _measured(trained: Model, test: Dataset) -> dict[str, float]:
    """What can be measured again wherever the data are: reconstruction error, and how many classes are read right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own images are no negatives
        labels = trained.predict(test.images).labels
        drawn = trained.decode(trained.encode(test.images), test.labels)
    error = ((drawn - test.images.astype(np.float32) / 255) ** 2).mean(dtype=np.float64)
    return {"mse": float(error), "content_accuracy": float((labels == test.labels).mean()), "images": len(test)}


def _check(path: Path, figures: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"The model has {size} bytes, and at most {MOST_BYTES} go into the package.")
    before, after = figures["run"], figures["boxed"]
    if after["mse"] > _MOST_ERROR * before["mse"]:
        raise UserError(f"Rounding raises the reconstruction error from {before['mse']:.5f} to {after['mse']:.5f}.")
    if after["content_accuracy"] < before["content_accuracy"] + _LEAST_ACCURACY:
        raise UserError(
            f"Rounding lowers the classifier's accuracy from {before['content_accuracy']:.4f} to "
            f"{after['content_accuracy']:.4f}."
        )


def _card(
    name: str, trained: Model, record: dict[str, Any], evaluation: dict[str, Any], figures: dict[str, Any]
) -> str:
    config, environment = trained.info.config, record.get("environment", {})
    code = environment.get("code", {})
    found, before, after = evaluation["figures"], figures["run"], figures["boxed"]
    rows = []
    if leakage := found.get("leakage"):
        rows.append(
            ("leakage (best of four probes)", f"{leakage['probe_accuracy']:.1%}, chance {leakage['chance']:.1%}")
        )
    if transferred := found.get("transfer"):
        doubt = ", but the judges are not trusted" if "transfer" in evaluation["untrusted"] else ""
        rows.append(("swaps read as the class asked for", f"{transferred['transfer_accuracy']:.1%}{doubt}"))
    if style := found.get("style"):
        kept = [f"{key.replace('_', ' ')} {r:.2f}" for key, r in style["correlation"].items() if r is not None]
        rows.append(("style kept, correlation", ", ".join(kept)))
    if counterfactual := found.get("counterfactual"):
        rows.append(("MSE against the true picture of a swap", f"{counterfactual['mse']:.4f}"))
    trained_by = ", ".join(
        [
            f"seed {config.train.seed}",
            f"step {trained.step}",
            environment.get("device", "unknown device"),
            f"JAX {environment.get('jax', '?')}",
            f"code {code.get('source', '?')}" + (f" of commit {code['commit'][:12]}" if "commit" in code else ""),
        ]
    )
    sections = [
        f"# {name}",
        f"    infoae demo {name}\n    infoae_jax.load({name!r})",
        f"**Data.** {_DATA[name]} {trained.info.num_train:,} training and {trained.info.num_test:,} test images.",
        f"**Training.** `{_command(name, trained)}`: {trained_by}{' with changes' if code.get('modified') else ''}.",
        f"**Figures of the run**, by `infoae evaluate`, on {evaluation['data']['test']:,} test images (README.md says "
        f"what they mean):",
        "| figure | value |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows),
        f"**What rounding costs.** Large kernels have 8 bits here, with a scale for each output channel, the rest 16; "
        f"the adversary is left out. On {after['images']:,} test images:",
        f"| figure | run | as boxed |\n|---|---|---|\n"
        f"| MSE of pictures, clipped to [0, 1] | {before['mse']:.5f} | {after['mse']:.5f} |\n"
        f"| classes read right | {before['content_accuracy']:.2%} | {after['content_accuracy']:.2%} |",
        f"**Limits.** One seed. {_LIMITS[name]}",
    ]
    return "\n\n".join(sections) + "\n"


def _command(name: str, trained: Model) -> str:
    changes = [line.split(": ", 1) for line in differences(parse(_CONFIGS[name].get_config()), trained.info.config)]
    flags = [f" --config.{key}={change.split(' -> ')[1]}" for key, change in changes]
    return f"python launch.py --config=configs/{name}.py{''.join(flags)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, evaluated")
    parser.add_argument("name", choices=sorted(_CONFIGS))
    parser.add_argument("--data_dir", help="where the data set is, if not where the run found it")
    args = parser.parse_args()
    set_up(None)
    try:
        evaluation = read_evaluation(args.run)
        if evaluation is None or evaluation["protocol"]["name"] != "full":
            raise UserError(f"{str(args.run)!r} has no full evaluation. First: infoae evaluate {args.run}")
        opened = open_model(args.run, evaluation["step"], args.data_dir)
        info = opened.trained.info
        if info.config.data.name != args.name:
            raise UserError(f"{str(args.run)!r} was trained on {info.config.data.name!r}, not {args.name!r}.")
        test = load_run_data(info, args.data_dir).test
        description = make(args.name, opened.trained, opened.record, evaluation, test, FOLDER)
    except UserError as error:
        sys.exit(f"error: {error}")
    path = FOLDER / f"{args.name}.npz"
    print(f"{path}  ({path.stat().st_size:,} bytes)")
    print({kind: description["figures"][kind] for kind in ("run", "boxed")})


if __name__ == "__main__":
    main()
