"""Measures leakage, reconstruction, transfer and style of runs, on images that they were not trained on.

Examples:
  infoae evaluate runs/mnist                           a table, and evaluation.json in the run folder
  infoae evaluate runs/mnist --quick                   the same on fewer images, and evaluation_quick.json
  infoae evaluate runs/mnist --groups writers.npz      also the leakage to someone who does not know the writer
  infoae evaluate --sweep runs/mnist --best 3          the three best settings of a sweep
"""

import argparse
import time
from pathlib import Path

from infoae_jax.cli.arguments import WITHIN_HELP, Commands, path_text, percentage, positive_int, to_path
from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, QUICK
from infoae_jax.pretrained.find import FOLDER, pretrained_names
from infoae_jax.runs.folder import read_info
from infoae_jax.sweeps.results import MSE_TOLERANCE, TRAINED, find_sweep, group_by_setting, rank_settings


def add(commands: Commands) -> None:
    """Adds the command to the subparsers of `infoae`."""
    summary, layout = (
        "measure leakage, reconstruction, transfer and style of runs",
        argparse.RawDescriptionHelpFormatter,
    )
    parser = commands.add_parser("evaluate", help=summary, description=__doc__, formatter_class=layout)
    parser.add_argument("runs", nargs="+", type=to_path, metavar="RUN", help="run folder")
    parser.add_argument("--sweep", action="store_true", help="RUN holds a sweep: evaluate its trained trials")
    parser.add_argument("--best", type=positive_int, metavar="N", help="sweeps: only the N best settings (all seeds)")
    parser.add_argument("--within", type=percentage, metavar="PERCENT", help=WITHIN_HELP)
    parser.add_argument("--quick", action="store_true", help="use fewer images, and fewer epochs for the probes")
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--data_dir", type=path_text, help="where the data set is now, if it was moved after training")
    parser.add_argument(
        "--groups",
        default="",
        metavar="FILE.npz",
        help="groups of the test images, such as writers: a file whose array 'test' has a whole number for each image, "
        "in the order of the data set; or the name of a feature of a TFDS data set",
    )
    parser.add_argument(
        "--out", type=to_path, metavar="PATH", help="write the result of a single run to this file or folder"
    )
    parser.add_argument("--cpu_devices", type=positive_int, help="CPU only: number of devices; default: one per core")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measures all runs that the arguments name, and prints a table of each."""
    if arguments.within is not None and not arguments.best:
        raise UserError("--within changes which settings of a sweep are the best. Add --best N, or leave it out.")
    is_sweep = arguments.sweep or arguments.best
    if arguments.out is not None and (is_sweep or len(arguments.runs) > 1):
        raise UserError("--out is for the result of a single run. Leave it out.")
    folders = _trial_folders(arguments) if is_sweep else arguments.runs
    for folder in folders:
        if str(folder) in pretrained_names() and not folder.exists():
            card = FOLDER / f"{folder}.md"
            raise UserError(f"{str(folder)!r} is a pretrained model, which has no checkpoint to measure. See {card}.")
        read_info(folder)  # of all runs, before hours go into the first
    from infoae_jax.devices.setup import set_up  # here, so that mistakes are answered before JAX is imported
    from infoae_jax.evaluation.measure import evaluate_run, find_out
    from infoae_jax.evaluation.table import as_text

    set_up(None, arguments.cpu_devices)
    protocol = QUICK if arguments.quick else FULL
    outs = [find_out(folder, protocol, arguments.out) for folder in folders]
    options = {"groups": arguments.groups, "out": arguments.out, "show": lambda record: print(as_text(record))}
    for folder, out in zip(folders, outs, strict=True):
        begin = time.monotonic()
        evaluate_run(folder, protocol, arguments.step, arguments.data_dir, **options)
        print(f"{out}  ({time.monotonic() - begin:.0f} s)", flush=True)


def _trial_folders(arguments: argparse.Namespace) -> list[Path]:
    within = MSE_TOLERANCE if arguments.within is None else arguments.within
    found: list[Path] = []
    for sweep in arguments.runs:
        folder, trials = find_sweep(sweep)
        chosen = [trial for trial in trials if trial.state in TRAINED]
        if arguments.best:
            best = rank_settings(group_by_setting(trials), within)[: arguments.best]
            chosen = [trial for setting in best for trial in setting.trials]
            if not chosen:
                raise UserError(f"{str(sweep)!r} has no trial that is finished and evaluated. Run it to the end first.")
        found += [folder / trial.name for trial in chosen]
    return found
