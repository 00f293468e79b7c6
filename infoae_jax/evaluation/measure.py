"""Honest figures of a finished run: what it leaks, transfers and keeps, measured after training.

Nothing here was part of a training loss. Every figure takes the same system, with the same settings, on unseen images;
the probes see the very tensor that the decoder receives; swaps are clipped and rounded to 8 bits before anything reads
them, as a picture is when it is saved. What every figure is, how it can be fooled, and by which other figure that would
show, is written beside its function.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.devices.batching import make_batched
from infoae_jax.devices.batching import model_method as model_method
from infoae_jax.devices.mesh import AXIS
from infoae_jax.errors import UserError
from infoae_jax.evaluation.figures import FIGURES, JUDGED, SEED, NotApplicable, Subject, System
from infoae_jax.evaluation.judges import Judges, load_judges
from infoae_jax.evaluation.record import FORMAT, FULL, Protocol, file_name
from infoae_jax.files import write_atomically
from infoae_jax.inference.load import restore_variables
from infoae_jax.inference.run_data import load_run_data
from infoae_jax.runs.folder import read_info
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import environment


def measure(
    system: System, splits: Splits, judges: Judges, protocol: Protocol = FULL, figures: tuple[str, ...] = ()
) -> dict[str, Any]:
    """All figures (or those named) of any system, not only of a run.

    Returns:
      figures: by name, see the functions of this module. left_out: name to reason. untrusted: names of figures whose
      judges do not reach their bar. seconds: by name, what it took.
    """
    rng = np.random.default_rng(SEED)
    test, train = _at_most(splits.test, protocol.test_images, rng), _at_most(splits.train, protocol.train_codes, rng)
    z = system.encode(test.images)
    others = test.labels + rng.integers(1, len(test.class_names), len(test))
    others = (others % len(test.class_names)).astype(np.int32)
    subject = Subject(
        system=system,
        protocol=protocol,
        judges=judges,
        test=test,
        train=train,
        z=z,
        z_train=system.encode(train.images),
        reconstruction=system.decode(z, test.labels),
        others=others,
        swaps=system.generate(z, others),
    )
    result: dict[str, Any] = {"figures": {}, "left_out": {}, "untrusted": [], "seconds": {}}
    for name in figures or tuple(FIGURES):
        begin = time.perf_counter()
        try:
            result["figures"][name] = FIGURES[name](subject)
        except NotApplicable as reason:
            result["left_out"][name] = str(reason)
        result["seconds"][name] = time.perf_counter() - begin
    if not judges.trusted:
        result["untrusted"] = [name for name in JUDGED if name in result["figures"]]
    return result


def evaluate_run(
    run: str | Path,
    protocol: Protocol = FULL,
    step: int | None = None,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures a run, and writes `evaluation.json` (or `evaluation_quick.json`) into its folder.

    Args:
      step: which checkpoint; the newest by default. data_dir: where the data set is now, if it was moved.

    Raises:
      UserError: if the folder is no run with a checkpoint, or the data set is not the one it was trained on.
    """
    run = Path(run)
    begin = time.perf_counter()
    info = read_info(run)
    at, model, variables = restore_variables(run, step)
    try:
        splits = load_run_data(info, data_dir, prepare=True)
    except UserError as error:
        raise UserError(f"{str(run)!r} cannot be evaluated. {error}") from error
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    pixels = model.image_shape[0] * model.image_shape[1]

    def method(name: str) -> Callable[..., np.ndarray]:
        batched = make_batched(model_method(model, name), mesh, pixels)
        return lambda *rows: batched(variables, *rows)

    system = System(method("encode"), method("decode"), method("classify"))
    judges = load_judges(info.config.data, splits, mesh, say)
    prepared = time.perf_counter()
    measured = measure(system, splits, judges, protocol)
    seconds = measured.pop("seconds")
    devices = jax.local_devices()
    epochs = read_metrics(run, "epoch")
    record = {
        "format": FORMAT,
        "protocol": dataclasses.asdict(protocol),
        "step": at,
        "data": {"name": info.config.data.name, "train": len(splits.train), "test": len(splits.test)},
        "class_names": list(info.class_names),
        "bottleneck": info.config.model.bottleneck,
        **measured,
        "environment": environment(),
        "cost": {
            "device": f"{len(devices)} x {devices[0].device_kind}",
            "preparation_s": prepared - begin,
            "evaluation_s": time.perf_counter() - prepared,
            "by_figure_s": seconds,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
            "training_images_per_s": float(np.median([line["images_per_s"] for line in epochs])) if epochs else None,
            **_speed(system, splits.test),
        },
    }
    write_atomically(run / file_name(protocol), (json.dumps(_finite(record), indent=1) + "\n").encode())
    return record


def _finite(value: Any) -> Any:
    """JSON has no word for NaN (a correlation with a constant): null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _at_most(split: Dataset, count: int, rng: np.random.Generator) -> Dataset:
    if len(split) <= count:
        return split
    rows = np.sort(rng.choice(len(split), count, replace=False))
    factors = {name: values[rows] for name, values in split.factors.items()}
    return Dataset(split.images[rows], split.labels[rows], split.class_names, factors)


def _speed(system: System, test: Dataset) -> dict[str, float]:
    """Images for each second through `encode` and `decode`, compiled already; the median of five."""
    images, labels = test.images[:2000], test.labels[:2000]
    z = system.encode(images)
    result = {}
    for name, call in (("encode", lambda: system.encode(images)), ("decode", lambda: system.decode(z, labels))):
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        result[f"{name}_images_per_s"] = len(images) / float(np.median(times))
    return result
