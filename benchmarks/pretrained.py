"""Makes a pretrained model of the package, and its card, from an evaluated run of a default recipe.

    python benchmarks/pretrained.py runs/mnist mnist        # infoae_jax/pretrained/mnist.npz and mnist.md
    python benchmarks/pretrained.py runs/rendered rendered

The run needs its evaluation.json (`infoae evaluate`). Large kernels are rounded to 8 bits and the rest to 16, and the
adversary is left out. The cost of this is measured on all test images; a model that suffers is refused.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

from configs import mnist, rendered
from infoae_jax.config import differences, parse
from infoae_jax.data.dataset import Dataset
from infoae_jax.devices.setup import set_up
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import Record, read_evaluation
from infoae_jax.files import write_atomically
from infoae_jax.inference.description import Bundle
from infoae_jax.inference.load import load_bundle
from infoae_jax.inference.model import Model
from infoae_jax.inference.npz import read_npz, write_npz
from infoae_jax.inference.run_data import NUM_EXAMPLES, example_images, load_run_data
from infoae_jax.inference.styles import NUM_EXPORTED_LATENTS
from infoae_jax.pretrained.find import FOLDER
from infoae_jax.types import Json

MAX_BYTES = 2_500_000
MAX_ERROR_RATIO = 1.02  # of the reconstruction error after rounding to that before
MAX_ACCURACY_LOSS = 0.002  # of the content classifier
_CONFIGS = {"mnist": mnist, "rendered": rendered}
_DATA = {
    "mnist": "MNIST (LeCun, Cortes and Burges 1998): handwritten digits, 28x28 grey, white on black, centred by their "
    "mass. The example images in the file are from its test split. Y. LeCun and C. Cortes hold its copyright, and "
    "license it under the Creative Commons Attribution-Share Alike 3.0 licence.",
    "rendered": "The rendered data set of this package (`infoae_jax/data/rendered.py`): digits in 20 fonts, 32x32 RGB, "
    "generated from a seed. The example images in the file are generated too.",
}
_LIMITS = {
    "mnist": "It knows single digits, white on black, 20 pixels high and in the centre, as `infoae demo` and "
    "`--drawing` prepare them. Other symbols, and several digits, come out as the nearest digit that it knows.",
    "rendered": "It knows printed digits in these fonts in the middle of the image. Photographs of house numbers "
    "are beyond it.",
}


def make(
    name: str, bundle: Bundle, evaluation: Record, test: Dataset, folder: Path, data_dir: str | None = None
) -> Json:
    """Writes NAME.npz and NAME.md into `folder`.

    Args:
      name: of the recipe, and of the pretrained model.
      bundle: of the run.
      evaluation: its evaluation.json.
      test: all test images.
      folder: where to write.
      data_dir: where the run's data set is, if not where the run found it.

    Returns:
      The figures in the file.

    Raises:
      UserError: if the file is too large, or worse than the run.
    """
    model = bundle.model
    images, labels = example_images(model.info, NUM_EXAMPLES, data_dir)
    extras = {
        "styles/z": model.style_bank.z[:NUM_EXPORTED_LATENTS],
        "styles/labels": model.style_bank.labels[:NUM_EXPORTED_LATENTS],
        "examples/images": images,
        "examples/labels": labels,
    }
    draft = folder / f".{name}-draft.npz"
    figures: Json = {"evaluation": evaluation["figures"], "run": measure(model, test)}
    try:
        for _ in range(2):  # once to be measured, once with these figures
            write_npz(draft, bundle._replace(extras=extras, figures=figures), "int8")
            figures = {**figures, "pretrained": measure(read_npz(draft).model, test)}
        check(draft, figures)
        write_atomically(folder / f"{name}.md", card(name, bundle, evaluation, figures).encode())
        draft.replace(folder / f"{name}.npz")
    finally:
        draft.unlink(missing_ok=True)
    return figures


def measure(model: Model, test: Dataset) -> Json:
    """Figures that can be measured again wherever the data are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own images are not negatives
        labels = model.predict(test.images).labels
        images = model.decode(model.encode(test.images), np.array(model.classes)[test.labels])
    error = ((images - test.images.astype(np.float32) / 255) ** 2).mean(dtype=np.float64)
    return {"mse": float(error), "content_accuracy": float((labels == test.labels).mean()), "images": len(test)}


def check(path: Path, figures: Json) -> None:
    """Raises UserError if the file is too large, or rounding has made the model worse."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"The model has {size} bytes, but a pretrained model may have at most {MAX_BYTES}.")
    before, after = figures["run"], figures["pretrained"]
    if after["mse"] > MAX_ERROR_RATIO * before["mse"]:
        raise UserError(f"Rounding raises the reconstruction error from {before['mse']:.5f} to {after['mse']:.5f}.")
    if after["content_accuracy"] < before["content_accuracy"] - MAX_ACCURACY_LOSS:
        raise UserError(
            f"Rounding lowers the classifier's accuracy from {before['content_accuracy']:.4f} to "
            f"{after['content_accuracy']:.4f}."
        )


def card(name: str, bundle: Bundle, evaluation: Record, figures: Json) -> str:
    """The card of a pretrained model, in Markdown."""
    info, environment = bundle.model.info, bundle.record.get("environment", {})
    found, before, after = evaluation["figures"], figures["run"], figures["pretrained"]
    rows = []
    if leakage := found.get("leakage"):
        chance = f"{leakage['probe_accuracy']:.1%} (chance {leakage['chance']:.1%})"
        rows.append(("leakage: accuracy of the best of four probes", chance))
    if transfer := found.get("transfer"):
        doubt = ", but the judges are not trusted" if "transfer" in evaluation["untrusted"] else ""
        rows.append(("transfer accuracy", f"{transfer['transfer_accuracy']:.1%}{doubt}"))
    if style := found.get("style"):
        kept = [f"{key.replace('_', ' ')} {r:.2f}" for key, r in style["correlation"].items() if r is not None]
        rows.append(("style: correlation of source and swap", ", ".join(kept)))
    if counterfactual := found.get("counterfactual"):
        rows.append(("MSE of swaps against the true images", f"{counterfactual['mse']:.4f}"))
    training = [
        f"seed {info.config.train.seed}",
        f"step {bundle.model.step}",
        environment.get("device", "unknown device"),
        f"JAX {environment.get('jax', '?')}",
    ]
    sections = [
        f"# {name}",
        f"    infoae demo {name}\n    infoae_jax.load({name!r})",
        f"**Data.** {_DATA[name]} {info.num_train:,} training and {info.num_test:,} test images.",
        f"**Training.** `{_command(name, bundle.model)}`: {', '.join(training)}.",
        f"**Figures of the run**, by `infoae evaluate`, on {evaluation['data']['test']:,} test images "
        f"(docs/pages/evaluation.md explains them):",
        "| figure | value |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows),
        f"**Cost of rounding.** In this file large kernels have 8 bits, with a scale for each output channel, and the "
        f"rest 16; the adversary is left out. On {after['images']:,} test images:",
        f"| figure | run | this file |\n|---|---|---|\n"
        f"| MSE of reconstructions, clipped to [0, 1] | {before['mse']:.5f} | {after['mse']:.5f} |\n"
        f"| accuracy of the content classifier | {before['content_accuracy']:.2%} | {after['content_accuracy']:.2%} |",
        f"**Limits.** One seed. {_LIMITS[name]}",
    ]
    return "\n\n".join(sections) + "\n"


def _command(name: str, model: Model) -> str:
    changes = [line.split(": ", 1) for line in differences(parse(_CONFIGS[name].get_config()), model.info.config)]
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
        bundle = load_bundle(args.run, evaluation["step"], args.data_dir)
        info = bundle.model.info
        if info.config.data.name != args.name:
            raise UserError(f"{str(args.run)!r} was trained on {info.config.data.name!r}, not {args.name!r}.")
        test = load_run_data(info, args.data_dir).test
        figures = make(args.name, bundle, evaluation, test, FOLDER, args.data_dir)
    except UserError as error:
        sys.exit(f"error: {error}")
    path = FOLDER / f"{args.name}.npz"
    print(f"{path}  ({path.stat().st_size:,} bytes)")
    print({kind: figures[kind] for kind in ("run", "pretrained")})


if __name__ == "__main__":
    main()
