"""`infoae report`: one HTML page about runs, or about a sweep."""

import argparse
from pathlib import Path
from typing import Any

from infoae_jax.cli.arguments import WITHIN_HELP, percentage
from infoae_jax.errors import UserError


def add(commands: Any) -> None:
    """Adds the command to the subparsers of `infoae`."""
    parser = commands.add_parser("report", help="make one HTML page about runs")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, help="file to write; default: report.html in the first run folder")
    parser.add_argument("--sweep", action="store_true", help="RUN is a sweep: the page compares its trials")
    parser.add_argument("--within", type=percentage, metavar="PERCENT", help=WITHIN_HELP)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the page, or a page for each sweep, and prints where it is.

    Raises:
      UserError: if a folder holds no run or no sweep, or the options contradict each other.
    """
    if arguments.sweep:
        _report_sweeps(arguments)
        return
    if arguments.within is not None:
        raise UserError("--within is for sweeps: add --sweep, or leave it out.")
    from infoae_jax.reports.run import write_run_report

    for folder in arguments.runs:
        trials = folder if folder.name == "sweep" else folder / "sweep"
        if trials.is_dir() and not (folder / "config.json").exists():
            raise UserError(f"{str(folder)!r} holds only a sweep. Its page: infoae report --sweep {trials.parent}")
    out = arguments.out or arguments.runs[0] / "report.html"
    write_run_report(arguments.runs, out)
    print(out)


def _report_sweeps(arguments: argparse.Namespace) -> None:
    from infoae_jax.reports.sweep import write_sweep_report
    from infoae_jax.sweeps.results import MSE_TOLERANCE

    if len(arguments.runs) > 1 and arguments.out:
        raise UserError("--out names one page, but several sweeps are given. Leave it out.")
    within = MSE_TOLERANCE if arguments.within is None else arguments.within
    for folder in arguments.runs:
        print(write_sweep_report(folder, arguments.out, within))
