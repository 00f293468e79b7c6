"""Folders of runs and sweeps that are made up, without any training."""

import json

import numpy as np

from infoae_jax.images.grid import encode_png
from infoae_jax.runs.folder import RunInfo, open_run
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.sweeps.results import FAILURE_FILE
from infoae_jax.sweeps.trials import list_trials
from tests.records import RECORD

_NOW = "2020-01-01T00:00:00+00:00"
_INFO = ((32, 32, 3), tuple("0123456789"), 256, 64, "data")


def make_run(folder, config, evaluated=True, record=RECORD, class_names=None):
    """A run folder with three epochs of metrics, two sheets of swaps and the evaluation `record`."""
    folder.mkdir(parents=True)
    info = RunInfo(config, *_INFO[:1], class_names or _INFO[1], *_INFO[2:])
    open_run(folder, info, "2 x cpu")
    append_metrics(folder, "start", step=0, device="2 x cpu", environment={"jax": "1"}, time=_NOW)
    for epoch, mse in ((1, 0.08), (2, 0.02), (3, 0.012)):
        means = {"reconstruction": mse, "adversary_accuracy": 0.2, "lambda": 0.001 * epoch}
        append_metrics(folder, "autoencoder", step=4 * epoch, epoch=epoch, **means)
        append_metrics(folder, "test", step=4 * epoch, epoch=epoch, reconstruction=mse, content_accuracy=0.5)
    (folder / "samples").mkdir()
    for epoch in (0, 3):
        (folder / "samples" / f"epoch_{epoch:04d}.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    if evaluated:
        (folder / "evaluation_quick.json").write_text(json.dumps(record))
    return folder


def make_sweep(folder, config, *trials):
    """The folders of a sweep: for each trial what it changes, and its leakage and MSE, or why it failed."""
    for values, found in trials:
        trial = list_trials(config, lambda add, v=values: add(**v), folder)[0]
        trial.folder.mkdir(parents=True)
        open_run(trial.folder, RunInfo(trial.config, *_INFO), "cpu")
        (trial.folder / "samples").mkdir()
        (trial.folder / "samples" / "epoch_0002.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
        if isinstance(found, str):
            failure = {"state": "diverged", "reason": found, "values": values}
            (trial.folder / FAILURE_FILE).write_text(json.dumps(failure))
            continue
        append_metrics(trial.folder, "start", step=0, device="cpu", environment={}, time=_NOW)
        append_metrics(trial.folder, "end", step=8, time="2020-01-01T00:05:00+00:00")
        figures = {"leakage": {"probe_accuracy": found[0], "chance": 0.1135}, "reconstruction": {"mse": found[1]}}
        record = {**RECORD, "figures": figures, "cost": {"evaluation_s": 1.0}}
        (trial.folder / "evaluation_quick.json").write_text(json.dumps(record))
    return folder


def grid(seeds=(0, 1)):
    """Trials for `make_sweep`: the recommended setting has lambda 0.01 and bottleneck 16, the lowest leakage 8."""
    found = {(8, 0.0): (0.5, 0.03), (8, 0.01): (0.15, 0.04), (16, 0.0): (0.8, 0.0100), (16, 0.01): (0.3, 0.0105)}
    for (bottleneck, lam), (leakage, mse) in found.items():
        for seed in seeds:
            values = {"model.bottleneck": bottleneck, "train.lambda_adv": lam, "train.seed": seed}
            yield values, (leakage + 0.01 * seed, mse)
    for seed in seeds:
        yield {"model.bottleneck": 8, "train.lambda_adv": 0.1, "train.seed": seed}, "the <adversary> ran away"
