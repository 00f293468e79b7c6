"""Serves a page in your browser to try a model on: draw or upload an image, see every class in its style, mix two.

Examples:
  infoae demo mnist                                  a pretrained model, at http://127.0.0.1:8000/
  infoae demo runs/mnist --port=0 --open             at a free port, opened at once
  infoae demo mnist --trusted_origin=https://demo.example.com     behind a proxy with that address

Ctrl-C ends it. Only programs on this machine can reach it, unless --host says otherwise. To use it from another
machine, run this there and open http://localhost:8000/:

  ssh -L 8000:localhost:8000 user@host
"""

import argparse
import re
import signal
import webbrowser

from infoae_jax.cli.arguments import Commands, add_model_command, path_text
from infoae_jax.errors import UserError
from infoae_jax.pretrained.find import find_model

_DEFAULT_PORTS = {"http": 80, "https": 443}  # which browsers leave out


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = add_model_command(commands, "demo", "serve a page to try the model on", __doc__)
    parser.add_argument("--data_dir", type=path_text, help="where the data set is now, if it was moved after training")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: reachable from elsewhere")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; default: 8000; 0: a free one")
    parser.add_argument(
        "--trusted_origin",
        action="append",
        default=[],
        type=origin,
        metavar="ORIGIN",
        help="behind a proxy: https://HOST[:PORT], as browsers show it; may be repeated",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)


def origin(text: str) -> str:
    """Reads the scheme, host and port of a page, and writes them as browsers do; for `type` of an argparse argument."""
    found = text.lower().removesuffix("/")
    parts = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?", found)
    if parts and int(parts[3] or 1) < 65536:
        is_default = not parts[3] or int(parts[3]) == _DEFAULT_PORTS[parts[1]]
        return f"{parts[1]}://{parts[2]}" + ("" if is_default else f":{parts[3]}")
    raise argparse.ArgumentTypeError(f"{text!r} is not written https://HOST or https://HOST:PORT, without a path")


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM."""
    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port is {arguments.port}, but must be from 0 (a free one) to 65535.")
    find_model(arguments.model)
    # JAX takes seconds to import; mistakes are answered before.
    from infoae_jax.demo.app import load_demo
    from infoae_jax.demo.server import Server
    from infoae_jax.devices.setup import set_up

    set_up(1)  # one image at a time is not worth sharing
    demo = load_demo(arguments.model, arguments.step, arguments.data_dir)
    with Server(demo, arguments.host, arguments.port, arguments.trusted_origin) as server:
        demo.warm_up()
        print(f"{demo.name}: {server.url}  (Ctrl-C ends it)", flush=True)
        if arguments.host not in ("127.0.0.1", "localhost", "::1"):
            print("Everyone who can reach this machine can use it.", flush=True)
        if arguments.open:
            webbrowser.open(server.url)
        for number in (signal.SIGINT, signal.SIGTERM):  # the former is ignored where a script starts it with '&'
            signal.signal(number, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended.")
