"""`infoae demo`: a trained model as a page to play with."""

import argparse
import signal
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infoae_jax.errors import UserError
from infoae_jax.pretrained.find import find_model, model_help

if TYPE_CHECKING:
    from infoae_jax.demo.app import Demo

_DESCRIPTION = """\
A page to play with, in your browser: draw or upload a picture, see every class in its style, mix two pictures.

  infoae demo mnist
  infoae demo runs/mnist --port=0 --open

Ctrl-C ends it. Only programs on this machine can reach it, unless --host says otherwise."""


def add(commands: Any) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = commands.add_parser(
        "demo",
        help="a page to play with",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help=model_help())
    parser.add_argument("--step", type=int, help="which checkpoint; default: the newest")
    parser.add_argument("--data_dir", help="where the data set is now, if it was moved after training")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: reachable from elsewhere")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: a free one")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Raises:
      UserError: for what is no model, and an address that is not to be had.
    """
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port is {arguments.port}, but must be from 0 (a free one) to 65535.")
    find_model(arguments.model)  # mistakes are answered before JAX is imported
    from infoae_jax.demo.server import Server
    from infoae_jax.devices.setup import set_up

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
    from infoae_jax.demo.app import Demo, Examples
    from infoae_jax.inference.load import open_model
    from infoae_jax.inference.run_data import NUM_EXAMPLES, example_images

    opened = open_model(run, step, data_dir)
    trained = opened.trained
    empty = Examples(np.zeros((0, *trained.module.image_shape), np.uint8), np.zeros(0, np.int32))
    if opened.extras is not None:
        images, labels = opened.extras.get("examples/images"), opened.extras.get("examples/labels")
        examples = empty if images is None or labels is None else Examples(images, labels)
        good = examples.images.dtype == np.uint8 and examples.images.shape[1:] == trained.module.image_shape
        if not good or examples.labels.shape != examples.images.shape[:1]:
            raise UserError(f"The examples in {run!r} are no images of this model. Export it again.")
    else:
        try:
            examples = Examples(*example_images(trained.info, NUM_EXAMPLES, data_dir=data_dir))
        except UserError as error:
            print(f"Without test images to pick from: {error}")
            examples = empty
    return Demo(Path(run).resolve().name if opened.extras is None else Path(run).stem, trained, examples)
