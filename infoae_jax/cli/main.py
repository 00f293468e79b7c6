"""Trains, measures and uses Info-autoencoders. `infoae` and `python -m infoae_jax` are the same.

Examples:
  infoae train --config=mnist --workdir=runs/mnist
                                                 train a model, as `python launch.py` does in a clone
  infoae sweep --config=mnist                    train and measure a model for each of many settings
  infoae transfer runs/mnist --style a.png --content 7 --out seven.png
                                                 generate a class, or all classes, in the style of your image
  infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
                                                 generate a class in styles between those of two images
  infoae evaluate runs/mnist                     measure a run: print a table and write evaluation.json
  infoae evaluate --sweep runs/mnist --best 3    measure the three best settings of a sweep in full
  infoae report runs/mnist runs/wide             compare runs on one HTML page
  infoae report --sweep runs/mnist               compare the trials of a sweep, with charts as SVG and PNG files
  infoae demo mnist                              serve a page to try a model on
  infoae export runs/mnist --to npz              write the model to files for other programs
"""

import argparse
import sys
from collections.abc import Sequence

from infoae_jax.cli import demo, evaluate, export, interpolate, report, transfer
from infoae_jax.cli.program import IMPOSSIBLE, INTERRUPTED, run_program

_TRAIN = """Trains a model. The same command resumes a training that was stopped.

Examples:
  infoae train --config=rendered                       into runs/rendered
  infoae train --config=mnist --config.model.bottleneck=32 --workdir=runs/wide
  infoae train --config=mine.py                        a configuration of your own
"""
_SWEEP = """Trains and measures a model for each trial of a configuration, and makes a page about them.

Examples:
  infoae sweep --config=mnist --sweep_list             which trials there are, and how long they take
  infoae sweep --config=mnist --sweep_filter=bottleneck=16,seed=0
  infoae sweep --config=mnist                          the rest: nothing is done twice

The same as `infoae train --sweep`. The same command resumes a sweep that was stopped.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` names, by default the words after the program's name.

    Returns:
      The exit code: 0; 2 if the input cannot work; 70 for a fault of the program; 130 after Ctrl-C; 141 if the reader
      of the output has gone; for `train` and `sweep`, those of `launch.py`.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] in (["train"], ["sweep"]):
        from infoae_jax.cli.train import launch  # here, as it reads its options by another library

        is_sweep = words[0] == "sweep"  # where that library looks for options, and for the text of --help:
        sys.argv = [f"infoae {words[0]}", *(["--sweep"] if is_sweep else []), *words[1:]]
        sys.modules["__main__"].__doc__ = _SWEEP if is_sweep else _TRAIN
        return launch()
    return run_program(lambda: _run(words), (INTERRUPTED, "Interrupted. What was finished before is kept."))


def _run(words: Sequence[str]) -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="infoae", description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("train", help="train a model")  # which `main` runs, like `sweep`
    commands.add_parser("sweep", help="train and measure a model for each of many settings")
    for command in (evaluate, report, transfer, interpolate, demo, export):
        command.add(commands)  # with its `run`, which imports what needs JAX: --help and mistakes are answered before
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return IMPOSSIBLE
    arguments.run(arguments)
    return 0
