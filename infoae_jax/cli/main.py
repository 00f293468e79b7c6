"""The command line for trained models: `infoae` or `python -m infoae_jax`. To train one, run `launch.py`.

infoae transfer runs/mnist --style a.png --content 7 --out seven.png
                                               a class, or all classes, in the style of your image
infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
                                               a class in styles between those of two images
infoae evaluate runs/mnist                     measure a run: print a table and write evaluation.json
infoae evaluate --sweep runs/mnist --best 3    measure the three best settings of a sweep in full
infoae report runs/mnist runs/wide             compare runs on one HTML page
infoae report --sweep runs/mnist               compare the trials of a sweep, with charts as SVG and PNG files
infoae demo runs/mnist                         a page to play with
infoae export runs/mnist --to npz              the model as files for other programs
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from absl import logging

from infoae_jax.cli import demo, evaluate, export, interpolate, report, transfer
from infoae_jax.errors import UserError, as_sentence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names, by default the words after the program's name.

    Returns:
      The exit code: 0, or 2 if the input cannot work, or 130 after Ctrl-C.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="infoae", description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (evaluate, report, transfer, interpolate, demo, export):
        command.add(commands)  # with its `run`, which imports what needs JAX: --help and mistakes are answered before
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    logging.set_verbosity(logging.FATAL)  # what Orbax logs as an error, it also raises
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
