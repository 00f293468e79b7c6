"""The programs of examples/."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest

import infoae_jax
from infoae_jax.evaluation.judges import Judges
from infoae_jax.evaluation.record import QUICK
from infoae_jax.sweeps.results import read_trials, write_results
from tests.report_folders import grid, make_sweep

ROOT = Path(__file__).parents[1]


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


def test_transfer_in_jit(one_device, capsys):
    swaps, direction = example("transfer_in_jit")["main"]()
    model = infoae_jax.load("mnist")
    z = model.encode(model.decode(model.sample(4, seed=0), 3))
    for label in (0, 7):
        np.testing.assert_allclose(np.clip(swaps[label], 0, 1), model.decode(z, label), atol=1e-3)
    bolder = model.decode(z + 0.01 * np.asarray(direction) / np.linalg.norm(direction, axis=1, keepdims=True), 7)
    assert (bolder.sum((1, 2, 3)) > model.decode(z, 7).sum((1, 2, 3))).all()
    assert capsys.readouterr().out.startswith("10 classes in 4 styles")


def test_read_sweep(tiny_config, tmp_path):
    pytest.importorskip("pandas")
    folder = make_sweep(tmp_path / "sweep", tiny_config, *grid())
    write_results(folder, read_trials(folder))
    table = example("read_sweep")["read"](folder / "sweep.jsonl")
    assert len(table) == 4  # settings; the one that diverged has no figures
    assert list(table.index.names) == ["model.bottleneck", "train.lambda_adv"]
    assert table["probe_accuracy"].tolist() == pytest.approx([0.155, 0.305, 0.505, 0.805])
    assert table.loc[(16, 0.01), "mse"] == pytest.approx(0.0105)


def test_measure_other_model(tiny, monkeypatch, one_device, capsys):
    names = example("measure_other_model")
    same = Judges(
        (0.99,) * 3,
        threshold=0.9,
        predict=lambda images: np.zeros((3, len(images)), np.int32),
        features=lambda images: images.reshape(len(images), -1)[:, :4].astype(np.float32),
    )
    monkeypatch.setitem(names["main"].__globals__, "load_judges", lambda *_: same)  # training them takes minutes
    monkeypatch.setattr(names["rendered"], "get_config", lambda: tiny)
    small = dataclasses.replace(QUICK, train_codes=256, test_images=64, swaps=100, probe_epochs=1)
    figures = names["main"](256, 64, small)
    assert figures["reconstruction"]["mse"] < 0.03
    assert figures["leakage"]["chance"] < 0.3
    assert {"style", "counterfactual", "composition", "reversibility"} <= set(figures)
    assert "leakage" in capsys.readouterr().out
