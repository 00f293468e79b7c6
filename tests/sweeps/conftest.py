"""A sweep whose trainings and evaluations are pretended."""

import json

import numpy as np
import pytest

from configs import base
from infoae_jax.evaluation.record import QUICK, file_name
from infoae_jax.runs.folder import RunInfo, lock, open_run
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.runs.provenance import now
from infoae_jax.sweeps import runner
from infoae_jax.sweeps.trials import list_trials
from infoae_jax.training.fit import Result
from infoae_jax.training.state import TrainState
from tests.records import RECORD


@pytest.fixture
def grid(tiny_config, tmp_path):
    """Eight trials in two groups."""
    return list_trials(tiny_config, lambda add: base.sweep_over(add, (0.0, 0.01), (4, 8), (0, 1)), tmp_path / "sweep")


@pytest.fixture
def train():
    """Stands in for `fit`: makes the run folder."""

    def fit(config, folder):
        with lock(folder):
            open_run(folder, RunInfo(config, (32, 32, 3), tuple("0123456789"), 256, 64, "data"), "cpu")
            for kind in ("start", "end"):
                append_metrics(folder, kind, step=8, time=now(), device="cpu", environment={})
        return Result(TrainState(np.int32(8), {}, {}, {}), finished=True)

    return fit


@pytest.fixture
def measure():
    """Stands in for `evaluate_run`: writes the evaluation of tests/records.py, `changes` made."""

    def evaluate_run(folder, protocol=QUICK, say=None, **changes):
        record = {**RECORD, "protocol": {"name": protocol.name}, "cost": {**RECORD["cost"], "evaluation_s": 60.0}}
        (folder / file_name(protocol)).write_text(json.dumps(record | changes))

    return evaluate_run


@pytest.fixture
def calls(monkeypatch, train, measure):
    """The names of the trials that the runner trains, in order."""
    names = []

    def fit(config, folder):
        result = train(config, folder)
        names.append(folder.name)
        return result

    monkeypatch.setattr(runner, "fit", fit)
    monkeypatch.setattr(runner, "evaluate_run", measure)
    return names
