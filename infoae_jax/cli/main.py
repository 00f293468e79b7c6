"""The command line: `infoae` or `python -m infoae_jax`.

infoae train --config=mnist --workdir=runs/mnist
                                               train a model, as `python launch.py` does in a clone
infoae transfer runs/mnist --style a.png --content 7 --out seven.png
                                               a class, or all classes, in the style of your image
infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
                                               a class in styles between those of two images
infoae evaluate runs/mnist                     measure a run: print a table and write evaluation.json
infoae evaluate --sweep runs/mnist --best 3    measure the three best settings of a sweep in full
infoae report runs/mnist runs/wide             compare runs on one HTML page
infoae report --sweep runs/mnist               compare the trials of a sweep, with charts as SVG and PNG files
infoae demo runs/mnist                         a page to try the model on
infoae export runs/mnist --to npz              the model as files for other programs
"""

import argparse
import sys
from collections.abc import Sequence

from infoae_jax.cli import demo, evaluate, export, interpolate, report, transfer
from infoae_jax.cli.program import IMPOSSIBLE, INTERRUPTED, run_program

_TRAIN = """Trains a model, or with --sweep all that the configuration lists: infoae train --config=mnist

  infoae train --config=rendered --workdir=runs/first --config.model.bottleneck=16
  infoae train --config=mine.py                        a configuration of your own

The same command resumes a training that was stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names, by default the words after the program's name.

    Returns:
      The exit code: 0; 2 if the input cannot work; 70 for a fault of the program; 130 after Ctrl-C; 141 if the reader
      of the output has gone; for `train`, those of `launch.py`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["train"]:
        from infoae_jax.cli.train import launch  # here, as it reads its options by another library

        sys.argv = ["infoae train", *words[1:]]  # where that looks for them, and for the text of --help:
        sys.modules["__main__"].__doc__ = _TRAIN
        return launch()
    return run_program(lambda: _run(words), (INTERRUPTED, "Interrupted. What was finished before is kept."))


def _run(words: Sequence[str]) -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="infoae", description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("train", help="train a model, or all of a sweep")  # and `main` runs it
    for command in (evaluate, report, transfer, interpolate, demo, export):
        command.add(commands)  # with its `run`, which imports what needs JAX: --help and mistakes are answered before
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return IMPOSSIBLE
    arguments.run(arguments)
    return 0
