"""Measures a finished run: what it leaks, transfers and keeps. Nothing here was part of a training loss.

All figures are of the same system, with the same settings, on unseen images. Probes see the very tensor that the
decoder receives; swaps are clipped and rounded to 8 bits before anything reads them, as if they had been saved.
"""

import dataclasses
import functools
import json
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from infoae_jax.data.dataset import Splits
from infoae_jax.data.groups import load_groups
from infoae_jax.devices.batching import make_batched, model_method
from infoae_jax.devices.computing import computing
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.errors import UserError
from infoae_jax.evaluation.judges import Judges, load_judges
from infoae_jax.evaluation.metrics import FIGURES, JUDGED, Groups, NotApplicable, Subject, System
from infoae_jax.evaluation.record import FORMAT, FULL, Protocol, Record, file_name
from infoae_jax.files import explain, user_path, write_atomically
from infoae_jax.inference.load import restore_variables
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.runs.folder import read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import environment
from infoae_jax.types import Json


def measure(
    system: System,
    splits: Splits,
    judges: Judges,
    protocol: Protocol = FULL,
    names: Sequence[str] = tuple(FIGURES),
    groups: Groups = None,
    say: Callable[[str], object] = lambda _: None,
) -> Json:
    """Measures the figures `names` of any system, not only of a run.

    Args:
      splits: images that it was trained on, and unseen ones.
      judges: of the same data set.
      groups: of the unseen images, for the leakage by group: see `data.groups.load_groups`.
      say: is called with a sentence on what is measured next.

    Returns:
      `figures` by name; `left_out`: by name, why one makes no sense here; `untrusted`: names of those whose judges stay
      below their threshold; `seconds` by name.
    """
    subject = Subject(system, splits, judges, protocol, groups)
    figures, left_out, seconds = {}, {}, {}
    for name in names:
        begin = time.perf_counter()
        say(f"Measuring {name} ...")
        try:
            figures[name] = FIGURES[name](subject)
        except NotApplicable as reason:
            left_out[name] = str(reason)
        seconds[name] = time.perf_counter() - begin
    untrusted = [name for name in JUDGED if name in figures and not judges.are_trusted]
    return {"figures": figures, "left_out": left_out, "untrusted": untrusted, "seconds": seconds}


@computing
def evaluate_run(
    run: str | Path,
    protocol: Protocol = FULL,
    step: int | None = None,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
    groups: str = "",
    out: str | Path | None = None,
    show: Callable[[Record], object] = lambda record: None,
) -> Record:
    """Measures a run, and writes `evaluation.json` (or `evaluation_quick.json`) into its folder.

    Args:
      run: the run's folder.
      step: of the checkpoint; the newest by default.
      data_dir: where the data set is now, if it was moved.
      groups: of the test images, for the leakage by group: see `data.groups.load_groups`.
      out: another file or folder to write to; a file that exists is not replaced.
      show: gets the result before it is written.

    Returns:
      The content of the file. A figure that is not finite, such as a correlation with a constant, is None.

    Raises:
      UserError: if the folder is not a run with a checkpoint, the data set is not the one it was trained on, or the
        file cannot be written, which is tried first.
    """
    run = user_path(run, "run")
    begin = time.perf_counter()
    info = read_info(run)
    path = find_out(run, protocol, out)
    at, model, variables = restore_variables(run, step)
    try:
        splits = load_run_data(info, data_dir, prepare=True)
        members = load_groups(groups, info.config.data, splits)
    except UserError as error:
        raise UserError(f"{str(run)!r} cannot be evaluated. {error}") from error
    mesh, pixels = data_mesh(), model.image_shape[0] * model.image_shape[1]
    methods = [make_batched(model_method(model, name), mesh, pixels) for name in ("encode", "decode", "classify")]
    system = System(*(functools.partial(method, variables) for method in methods))
    judges = load_judges(info.config.data, splits, mesh, say)
    prepared = time.perf_counter()
    measured = measure(system, splits, judges, protocol, groups=members, say=say)
    seconds = measured.pop("seconds")
    speeds = [rate for line in read_metrics(run, "autoencoder") if isinstance(rate := line.get("images_per_s"), float)]
    images, labels = splits.test.images[:2000], splits.test.labels[:2000]
    z = system.encode(images)
    record = {
        "format": FORMAT,
        "protocol": dataclasses.asdict(protocol),
        "step": at,
        "data": {"name": info.config.data.name, "train": len(splits.train), "test": len(splits.test)},
        "class_names": info.class_names,
        "bottleneck": info.config.model.bottleneck,
        **measured,
        "environment": environment(),
        "cost": {
            "device": f"{mesh.size} x {jax.local_devices()[0].device_kind}",
            "preparation_s": prepared - begin,
            "evaluation_s": time.perf_counter() - prepared,
            "by_figure_s": seconds,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
            "training_images_per_s": statistics.median(speeds) if speeds else None,
            "encode_images_per_s": len(images) / _seconds(lambda: system.encode(images)),
            "decode_images_per_s": len(images) / _seconds(lambda: system.decode(z, labels)),
        },
    }
    tidy: Record = json.loads(json.dumps(record), parse_constant=lambda _: None)  # JSON has no NaN
    show(tidy)
    try:
        write_atomically(path, (json.dumps(tidy, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"The evaluation is done, but {str(path)!r} cannot be written ({error}).") from error
    return tidy


def find_out(run: Path, protocol: Protocol, out: str | Path | None = None) -> Path:
    """The file for an evaluation of `run`; see `evaluate_run`.

    Raises:
      UserError: if it exists but is not the run's own, or cannot be written.
    """
    given = None if out is None else user_path(out, "out")
    folder = run if given is None else given
    path = folder / file_name(protocol) if folder.is_dir() else folder
    if given is not None and path.exists():
        raise UserError(f"{str(path)!r} exists. Choose another --out.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        advice = "Say where else to write the evaluation with --out." if given is None else "Choose another --out."
        raise UserError(f"The folder {str(path.parent)!r} cannot be written to ({explain(error)}). {advice}") from error


def _seconds(call: Callable[[], np.ndarray]) -> float:
    """Median seconds of five calls whose program is compiled already."""
    return statistics.median(timeit.repeat(call, number=1, repeat=5))
