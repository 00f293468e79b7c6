"""Makes one HTML page about runs, side by side, or about a sweep.

Examples:
  infoae report runs/mnist runs/wide                   two runs side by side
  infoae report --sweep runs/mnist                     the trials of a sweep, with charts as SVG and PNG files
"""

import argparse

from infoae_jax.cli.arguments import WITHIN_HELP, Commands, percentage, to_path
from infoae_jax.errors import UserError
from infoae_jax.sweeps.results import MSE_TOLERANCE


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    summary, layout = "compare runs, or the trials of a sweep, on one HTML page", argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("report", help=summary, description=__doc__, formatter_class=layout)
    parser.add_argument("runs", nargs="+", type=to_path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=to_path, help="file to write; default: report.html in the folder")
    parser.add_argument("--sweep", action="store_true", help="RUN holds a sweep: make the page about its trials")
    parser.add_argument("--within", type=percentage, metavar="PERCENT", help=WITHIN_HELP)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the page, or a page for each sweep, and prints where it is."""
    if arguments.sweep:
        if len(arguments.runs) > 1 and arguments.out:
            raise UserError("--out names one page, but several sweeps are given. Leave it out.")
        from infoae_jax.reports.sweep import write_sweep_report  # here, as Matplotlib takes long to import

        within = MSE_TOLERANCE if arguments.within is None else arguments.within
        for folder in arguments.runs:
            print(write_sweep_report(folder, arguments.out, within))
        return
    if arguments.within is not None:
        raise UserError("--within is for sweeps. Add --sweep, or leave it out.")
    for folder in arguments.runs:
        trials = folder if folder.name == "sweep" else folder / "sweep"
        if trials.is_dir() and not (folder / "config.json").exists():
            raise UserError(f"{str(folder)!r} holds only a sweep. For its page: infoae report --sweep {trials.parent}")
    from infoae_jax.reports.run import write_run_report  # here, as Matplotlib takes long to import

    out = arguments.out or arguments.runs[0] / "report.html"
    write_run_report(arguments.runs, out)
    print(out)
