"""`infoae export`: a trained model as files."""

import argparse
from pathlib import Path
from typing import Any

from infoae_jax.errors import UserError
from infoae_jax.pretrained.find import find_model, model_help

_DESCRIPTION = """\
Writes a model to files that need no run folder.

  infoae export runs/mnist --to npz                  plain arrays; infoae_jax.load reads them, and so does NumPy
  infoae export runs/mnist --to npz --dtype float16  half as large
  infoae export runs/mnist --to stablehlo            functions for JAX alone, on CPU, CUDA and TPU"""


def add(commands: Any) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = commands.add_parser(
        "export",
        help="write a model to files",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help=model_help())
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument("--data_dir", help="where the data set is now, if it was moved after training")
    parser.add_argument("--to", required=True, choices=("npz", "stablehlo"), help="what kind of files")
    parser.add_argument(
        "--out", type=Path, help="file (npz) or folder (stablehlo); default: model.npz or stablehlo, in the run folder"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        help="npz: of the parameters; default: float32; int8: large kernels only, scaled by channel, the rest float16",
    )
    parser.add_argument(
        "--examples", type=int, default=0, metavar="N", help="npz: N test images go along, for the page; default: none"
    )
    parser.add_argument("--force", action="store_true", help="replace what was exported before")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Raises UserError for what is no model, and what cannot be written."""
    path = find_model(arguments.model)
    default = {"npz": "model.npz", "stablehlo": "stablehlo"}[arguments.to]
    if arguments.out is None and path.is_file():
        raise UserError(
            f"{arguments.model!r} is a file, not a run folder to write into. Say where to write with --out."
        )
    out = arguments.out or path / default
    if arguments.to == "npz" and out.suffix != ".npz":
        raise UserError(f"--out is {str(out)!r}, but must end in .npz.")
    if out.exists() and not arguments.force:
        raise UserError(f"{str(out)!r} exists. Choose another --out, or replace it with --force.")
    if out.is_dir() and arguments.to == "npz":
        raise UserError(f"{str(out)!r} is a folder. Choose another --out.")
    if not 0 <= arguments.examples <= 10_000:
        raise UserError(f"--examples is {arguments.examples}, but must be from 0 to 10000.")
    if arguments.to == "stablehlo" and (arguments.dtype or arguments.examples):
        raise UserError(
            "--dtype and --examples are for --to npz: programs are float32 and hold no images. Leave it out."
        )
    if arguments.examples and path.is_file():
        raise UserError(f"--examples is for run folders: what {str(path)!r} has goes along anyway. Leave it out.")
    from infoae_jax.devices.setup import set_up
    from infoae_jax.inference.load import open_model
    from infoae_jax.inference.npz import write_npz
    from infoae_jax.inference.run_data import example_images
    from infoae_jax.inference.stablehlo import write_stablehlo
    from infoae_jax.inference.styles import NUM_EXPORTED

    set_up(None)
    opened = open_model(arguments.model, arguments.step, arguments.data_dir)
    trained = opened.trained
    if arguments.to == "stablehlo":
        write_stablehlo(out, trained.module, trained.variables, opened.record, arguments.force)
        print(out)
        return
    extras = dict(opened.extras) if opened.extras is not None else {}
    if opened.extras is None:
        try:
            z, labels = (rows[:NUM_EXPORTED] for rows in trained.style_bank)
            extras |= {"styles/z": z, "styles/labels": labels}
        except UserError as error:
            print(f"Without styles to sample from: {error}")
        if arguments.examples:
            images, labels = example_images(trained.info, arguments.examples, data_dir=arguments.data_dir)
            extras |= {"examples/images": images, "examples/labels": labels}
    about = {"step": trained.step, **opened.about}
    write_npz(out, trained.module, trained.variables, opened.record, arguments.dtype or "float32", extras, about)
    print(f"{out}  ({out.stat().st_size / 1e6:.2f} MB)")
