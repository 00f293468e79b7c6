"""`infoae demo` and `infoae export`: a trained model for others, as a page or as files."""

import argparse
import signal
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infoae_jax import boxed
from infoae_jax.errors import UserError

if TYPE_CHECKING:
    from infoae_jax.demo import Demo

_DEMO = """\
A page to play with, in your browser: draw or upload a picture, see every class in its style, mix two pictures.

  infoae demo mnist
  infoae demo runs/mnist --port=0 --open

Ctrl-C ends it. Only programs on this machine can reach it, unless --host says otherwise."""

_EXPORT = """\
Writes a model to files that need no run folder.

  infoae export runs/mnist --to npz                  plain arrays; infoae_jax.load reads them, and so does NumPy
  infoae export runs/mnist --to npz --dtype float16  half as large
  infoae export runs/mnist --to stablehlo            functions for JAX alone, on CPU, CUDA and TPU"""


def add(commands: Any) -> None:
    """Adds both to the subparsers of `infoae`."""
    form = argparse.RawDescriptionHelpFormatter
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", metavar="RUN", help=boxed.what())
    shared.add_argument("--step", type=int, help="which checkpoint; the newest by default")
    shared.add_argument("--data_dir", help="where the run's data set is, if not where the run found it")
    parents: dict[str, Any] = {"parents": [shared], "formatter_class": form}
    command = commands.add_parser("demo", help="a page to play with", description=_DEMO, **parents)
    command.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: reachable from elsewhere")
    command.add_argument("--port", type=int, default=8000, help="default: 8000; 0: a free one")
    command.add_argument("--open", action="store_true", help="open the page in the browser")
    command.set_defaults(run=demo)
    command = commands.add_parser("export", help="write a model to files", description=_EXPORT, **parents)
    command.add_argument("--to", required=True, choices=("npz", "stablehlo"), help="what kind of files")
    command.add_argument(
        "--out", type=Path, help="file (npz) or folder (stablehlo); default: model.npz or stablehlo, in the run folder"
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        help="npz: of the parameters; default: float32; int8: large kernels only, scaled by channel, the rest float16",
    )
    command.add_argument(
        "--examples", type=int, default=0, metavar="N", help="npz: N test images go along, for the page; default: none"
    )
    command.add_argument("--force", action="store_true", help="replace what was exported before")
    command.set_defaults(run=export)


def demo(arguments: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Raises:
      UserError: for what is no model, and an address that is not to be had.
    """
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port is {arguments.port}, but must be from 0 (a free one) to 65535.")
    boxed.find(arguments.model)  # mistakes are answered before JAX is imported
    from infoae_jax.demo import Server
    from infoae_jax.process import set_up

    set_up(1)  # one picture at a time is not worth sharing
    page = make_demo(arguments.model, arguments.step, arguments.data_dir)
    with Server(page, arguments.host, arguments.port) as server:
        page.warm_up()
        print(f"{page.name}: {server.url}  (Ctrl-C ends it)", flush=True)
        if arguments.host not in ("127.0.0.1", "localhost", "::1"):
            print("Everybody who can reach this machine can use it.", flush=True)
        if arguments.open:
            webbrowser.open(server.url)
        for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored where a script starts it with '&'
            signal.signal(number, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended.")


def make_demo(run: str, step: int | None = None, data_dir: str | None = None) -> "Demo":
    """What the page shows of a model, with test images if there are any at hand."""
    from infoae_jax import styles, transfer
    from infoae_jax.demo import Demo, Examples

    opened = transfer.open_model(run, step, data_dir)
    trained = opened.trained
    empty = Examples(np.zeros((0, *trained.model.image_shape), np.uint8), np.zeros(0, np.int32))
    if opened.extras is not None:
        images, labels = opened.extras.get("examples/images"), opened.extras.get("examples/labels")
        examples = empty if images is None or labels is None else Examples(images, labels)
        good = examples.images.dtype == np.uint8 and examples.images.shape[1:] == trained.model.image_shape
        if not good or examples.labels.shape != examples.images.shape[:1]:
            raise UserError(f"The examples in {run!r} are no images of this model. Export it again.")
    else:
        try:
            examples = Examples(*styles.example_images(trained.info, styles.EXAMPLES, data_dir=data_dir))
        except UserError as error:
            print(f"Without test images to pick from: {error}")
            examples = empty
    return Demo(Path(run).resolve().name if opened.extras is None else Path(run).stem, trained, examples)


def export(arguments: argparse.Namespace) -> None:
    """Raises UserError for what is no model, and what cannot be written."""
    path = boxed.find(arguments.model)
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
    from infoae_jax import export as files
    from infoae_jax import styles, transfer
    from infoae_jax.process import set_up

    set_up(None)
    opened = transfer.open_model(arguments.model, arguments.step, arguments.data_dir)
    trained = opened.trained
    if arguments.to == "stablehlo":
        files.write_stablehlo(out, trained.model, trained.variables, opened.record, arguments.force)
        print(out)
        return
    extras = dict(opened.extras) if opened.extras is not None else {}
    if opened.extras is None:
        try:
            z, labels = (rows[: styles.EXPORTED] for rows in trained.kept)
            extras |= {"styles/z": z, "styles/labels": labels}
        except UserError as error:
            print(f"Without styles to sample from: {error}")
        if arguments.examples:
            images, labels = styles.example_images(trained.info, arguments.examples, data_dir=arguments.data_dir)
            extras |= {"examples/images": images, "examples/labels": labels}
    about = {"step": trained.step, **opened.about}
    files.write_npz(out, trained.model, trained.variables, opened.record, arguments.dtype or "float32", extras, about)
    print(f"{out}  ({out.stat().st_size / 1e6:.2f} MB)")
