"""The command line for finished runs: `infoae` or `python -m infoae_jax`. Training is `launch.py`.

infoae transfer runs/mnist --style a.png --content 7 --out seven.png
                                      a class in the style of your image; or all classes, or that of another image
infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
                                      a class in styles between two
infoae evaluate runs/mnist            measure a run: a table, and evaluation.json in its folder
infoae report runs/mnist runs/wide    one HTML page about one or several runs
infoae report --sweep runs/mnist      one HTML page about a sweep, and its figures as SVG and PNG
infoae evaluate --sweep runs/mnist --best 3    measure its three best settings in full
infoae demo runs/mnist                a page to play with
infoae export runs/mnist --to npz     the model as files for others
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from absl import logging

from infoae_jax.cli import demo, evaluate, export, interpolate, report, transfer
from infoae_jax.errors import UserError, as_sentence

# Each has `add(commands)`, which adds its subparser, and `run(arguments)`. What needs JAX is imported in `run`, so that
# mistakes and --help are answered at once.
_COMMANDS = (evaluate, report, transfer, interpolate, demo, export)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the words after the program's name; those of this process by default.

    Returns:
      The exit code: 0, 2 if the input cannot work, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="infoae", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    logging.set_verbosity(logging.FATAL)  # Orbax; what it logs as an error is also raised
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        print(f"error: {as_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What was finished before is kept.", file=sys.stderr)
        return 130
    return 0
