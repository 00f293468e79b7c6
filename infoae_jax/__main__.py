"""The command line for finished runs: `infoae` or `python -m infoae_jax`. Training is `launch.py`.

infoae transfer runs/mnist --style a.png --content 7 --out seven.png
                                      a class in the style of your picture; or all, or that of another picture
infoae interpolate runs/mnist --from a.png --to b.png --content 7 --out way.png
                                      a class in styles between two
infoae evaluate runs/mnist            figures of a run, as a table and in its evaluation.json
infoae report runs/mnist runs/wide    one HTML page of one or several runs
infoae report --sweep runs/mnist      one HTML page of a sweep, and its figures as SVG and PNG
infoae evaluate --sweep runs/mnist --best 3    figures, in full, of its three best settings
infoae demo runs/mnist                a page to play with
infoae export runs/mnist --to npz     the model as files for others
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from infoae_jax import boxed, commands_drawing, commands_sharing
from infoae_jax.errors import UserError, as_sentence

_WITHIN = "of a sweep: how much larger than the lowest MSE that of a recommended setting may be; 10 by default"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 if the input cannot work."""
    parser = argparse.ArgumentParser(
        prog="infoae", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    evaluate = commands.add_parser("evaluate", help="measure what a run leaks, transfers and keeps")
    evaluate.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    evaluate.add_argument("--sweep", action="store_true", help="RUN is a sweep: evaluate its trials")
    evaluate.add_argument("--best", type=_natural, metavar="N", help="of a sweep: only the N best settings, all seeds")
    evaluate.add_argument("--within", type=_percent, metavar="PERCENT", help=_WITHIN)
    evaluate.add_argument("--quick", action="store_true", help="a part of the images and shorter probes")
    evaluate.add_argument("--step", type=int, help="which checkpoint; the newest by default")
    evaluate.add_argument("--data_dir", help="where the data set is, if not where the run found it")
    evaluate.add_argument("--cpu_devices", type=_natural, help="CPU only: how many devices; default: one for each core")
    evaluate.set_defaults(run=_evaluate)
    report = commands.add_parser("report", help="make one HTML page of runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    report.add_argument("--out", type=Path, help="file to write; default: report.html in the first run folder")
    report.add_argument("--sweep", action="store_true", help="RUN is a sweep: the page compares its trials")
    report.add_argument("--within", type=_percent, metavar="PERCENT", help=_WITHIN)
    report.set_defaults(run=_report)
    commands_drawing.add(commands)
    commands_sharing.add(commands)
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


def _evaluate(arguments: argparse.Namespace) -> None:
    from infoae_jax import evaluate  # here, so that mistakes and --help are answered before JAX is imported
    from infoae_jax.process import set_up
    from infoae_jax.runlog import read_info
    from infoae_jax.table import as_text

    if arguments.within is not None and not arguments.best:
        raise UserError("--within is of the choice of the best settings of a sweep: add --best N.")
    runs = _trials(arguments) if arguments.sweep or arguments.best else arguments.runs
    for run in runs:
        if str(run) in boxed.names() and not run.exists():
            raise UserError(
                f"{str(run)!r} comes with the package without its checkpoint; what was measured of it is in its card, "
                f"{boxed.FOLDER / run.with_suffix('.md').name}."
            )
        read_info(run)  # all of them, before hours go into the first
    set_up(None, arguments.cpu_devices)
    protocol = evaluate.QUICK if arguments.quick else evaluate.FULL
    for run in runs:
        record = evaluate.evaluate(run, protocol, arguments.step, arguments.data_dir)
        print(as_text(record))
        print(f"{run / evaluate.file_name(protocol)}  ({record['cost']['evaluation_s']:.0f} s)", flush=True)


def _trials(arguments: argparse.Namespace) -> list[Path]:
    """Run folders of the chosen trials of sweeps."""
    from infoae_jax import summary

    found: list[Path] = []
    for run in arguments.runs:
        folder, lines = summary.find(run)
        if arguments.best:
            within = summary.WITHIN if arguments.within is None else arguments.within
            best = summary.ranked(summary.settings(lines), within)[: arguments.best]
            if not best:
                raise UserError(f"{str(run)!r} has no trial that is finished and evaluated, so none is the best.")
            found += [folder / line.name for setting in best for line in setting.lines]
        else:
            found += [folder / line.name for line in lines if line.state in ("trained", "finished")]
    return found


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _percent(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage, 0 or more")
    return share


def _report(arguments: argparse.Namespace) -> None:
    if arguments.sweep:
        from infoae_jax import summary, sweep_report

        if len(arguments.runs) > 1 and arguments.out:
            raise UserError("--out names one page, but several sweeps are given. Leave it away.")
        within = summary.WITHIN if arguments.within is None else arguments.within
        for run in arguments.runs:
            print(sweep_report.write(run, arguments.out, within))
        return
    if arguments.within is not None:
        raise UserError("--within is of a sweep: add --sweep, or leave it away.")
    from infoae_jax.report import write

    for run in arguments.runs:
        trials = run if run.name == "sweep" else run / "sweep"
        if trials.is_dir() and not (run / "config.json").exists():
            raise UserError(f"{str(run)!r} holds a sweep only. Its page: infoae report --sweep {trials.parent}")
    out = arguments.out or arguments.runs[0] / "report.html"
    write(arguments.runs, out)
    print(out)


if __name__ == "__main__":
    sys.exit(main())
