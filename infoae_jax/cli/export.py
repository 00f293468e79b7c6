"""Writes a model to files that need no run folder.

Examples:
  infoae export runs/mnist --to npz                  plain arrays; infoae_jax.load reads them, and so does NumPy
  infoae export runs/mnist --to npz --dtype float16  half the size
  infoae export runs/mnist --to stablehlo            functions for JAX alone, on CPU, CUDA and TPU
"""

import argparse

from infoae_jax.cli.arguments import Commands, add_model_command, path_text, to_path
from infoae_jax.errors import UserError
from infoae_jax.pretrained.find import find_model


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = add_model_command(commands, "export", "write a model to files", __doc__)
    parser.add_argument("--data_dir", type=path_text, help="where the data set is now, if it was moved after training")
    parser.add_argument("--to", required=True, choices=("npz", "stablehlo"), help="format of the files")
    parser.add_argument("--out", type=to_path, help="file or folder; default: model.npz or stablehlo in the run folder")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        help="npz: type of the parameters; default: float32; int8: large kernels, scaled by channel, the rest float16",
    )
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="npz: add N test images for the demo page")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the files, and prints where they are."""
    path, is_npz = find_model(arguments.model), arguments.to == "npz"
    if arguments.out is None and path.is_file():
        raise UserError(f"{arguments.model!r} is a file, not a run folder to write into. Say where with --out.")
    out = arguments.out or path / ("model.npz" if is_npz else "stablehlo")
    if is_npz and out.suffix != ".npz":
        raise UserError(f"--out is {str(out)!r}, but must end in .npz.")
    if out.exists() and not arguments.force:
        raise UserError(f"{str(out)!r} exists. Choose another --out, or replace it with --force.")
    if out.is_dir() and is_npz:
        raise UserError(f"{str(out)!r} is a folder. Choose another --out.")
    if not 0 <= arguments.examples <= 10_000:
        raise UserError(f"--examples is {arguments.examples}, but must be from 0 to 10000.")
    if not is_npz and (arguments.dtype or arguments.examples):
        raise UserError("--dtype and --examples are for --to npz: programs are float32 and hold no images. Omit them.")
    if arguments.examples and path.is_file():
        raise UserError(f"--examples is for run folders; {str(path)!r} keeps the images that it has. Omit it.")
    # JAX takes seconds to import; mistakes are answered before.
    from infoae_jax.devices.setup import set_up
    from infoae_jax.inference import npz, run_data, stablehlo, styles
    from infoae_jax.inference.load import load_bundle

    set_up(None)
    bundle = load_bundle(arguments.model, arguments.step, arguments.data_dir)
    if is_npz and not path.is_file():
        try:
            z, labels = (rows[: styles.NUM_EXPORTED_LATENTS] for rows in bundle.model.style_bank)
            bundle.extras.update({"styles/z": z, "styles/labels": labels})
        except UserError as error:
            print(f"Without style latents to sample from: {error}")
        if arguments.examples:
            images, labels = run_data.example_images(bundle.model.info, arguments.examples, arguments.data_dir)
            bundle.extras.update({"examples/images": images, "examples/labels": labels})
    try:
        if is_npz:
            npz.write_npz(out, bundle, arguments.dtype or "float32")
        else:
            stablehlo.write_stablehlo(out, bundle)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error}). Choose another --out.") from error
    print(f"{out}  ({out.stat().st_size / 1e6:.2f} MB)" if is_npz else out)
