"""A run measured as a whole. The figures themselves are tested in test_figures."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest

import infoae_jax
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.evaluation import measure as measure_module
from infoae_jax.evaluation.judges import Judges
from infoae_jax.evaluation.measure import evaluate_run, measure
from infoae_jax.evaluation.metrics import System
from infoae_jax.evaluation.record import QUICK, read_evaluation
from infoae_jax.evaluation.table import as_text
from infoae_jax.runs.metrics import append_metrics

pytestmark = pytest.mark.usefixtures("one_device")

SMALL = dataclasses.replace(QUICK, train_codes=60, test_images=50, swaps=100, probe_epochs=1)


def judges(*accuracies):
    """Judges that read class 0 from every image."""
    return Judges(
        accuracies,
        threshold=0.9,
        predict=lambda images: np.zeros((len(accuracies), len(images)), np.int32),
        features=lambda images: images.reshape(len(images), -1)[:, :4].astype(np.float32),
    )


@pytest.fixture
def run(untrained, tmp_path):
    return shutil.copytree(untrained, tmp_path / "run")


def test_same_run_gives_the_same_file_but_for_its_cost(run, monkeypatch):
    monkeypatch.setattr(measure_module, "load_judges", lambda *_: judges(0.5, 0.5, 0.5))
    monkeypatch.setitem(measure_module.FIGURES, "reversibility", lambda _: {"r2": float("nan")})
    records = []
    for _ in range(2):
        returned = evaluate_run(run, SMALL)
        records.append(json.loads((run / "evaluation_quick.json").read_text()))
        assert records[-1] == returned == read_evaluation(run)
    printed = as_text(records[0])
    for word in ("leakage", "untrusted", "counterfactual", "left out", "images/s"):
        assert word in printed
    costs = [record.pop("cost") for record in records]
    assert records[0] == records[1]
    assert costs[0]["parameters"] == costs[1]["parameters"] > 1000
    assert costs[0]["training_images_per_s"] is None  # it was not trained
    assert records[0]["untrusted"] == ["transfer"]
    assert records[0]["left_out"].keys() == {"realism"}
    assert records[0]["class_names"] == list("0123456789")
    assert (records[0]["protocol"]["name"], records[0]["step"]) == ("quick", 8)
    assert records[0]["figures"]["transfer"]["swaps"] == 100
    assert records[0]["figures"]["reversibility"] == {"r2": None}  # JSON has no NaN


def test_model_is_the_one_that_is_loaded_from_the_run_and_its_training_had_this_speed(run, monkeypatch):
    monkeypatch.setattr(measure_module, "load_judges", lambda *_: judges(1.0))
    monkeypatch.setattr(measure_module, "measure", functools.partial(measure, names=("content", "reconstruction")))
    for epoch, speed in ((1, 100.0), (2, 300.0), (3, 200.0)):
        append_metrics(run, "autoencoder", step=4 * epoch, epoch=epoch, images_per_s=speed)
    record = evaluate_run(run, QUICK, step=3)
    assert record["cost"]["training_images_per_s"] == 200
    figures = record["figures"]
    model = infoae_jax.load(run, step=3)
    test = load_splits(model.info.config.data).test
    accuracy = (model.predict(test.images).labels == test.labels).mean()
    assert figures["content"]["content_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    images = np.rint(255 * model.decode(model.encode(test.images), test.labels))
    psnr = -10 * np.log10((((images - test.images) / 255) ** 2).mean((1, 2, 3)))
    assert figures["reconstruction"]["psnr"] == pytest.approx(psnr.mean(), abs=1e-3)


def test_run_on_other_images_is_refused(run, tmp_path):
    record = json.loads((run / "config.json").read_text())
    record["data"]["fingerprint"] = "another"
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="cannot be evaluated. .* not those that the run was trained on"):
        evaluate_run(run)
    with pytest.raises(UserError, match="not a run folder"):
        evaluate_run(tmp_path / "nothing")


def test_judges_below_their_threshold_are_not_trusted(tiny_config):
    splits = load_splits(tiny_config.data)
    blank = System(lambda images: np.zeros((len(images), 2)), lambda z, _: np.zeros((len(z), 32, 32, 3)))
    for accuracies, untrusted in (((0.95, 0.89, 0.95), ["transfer"]), ((0.95, 0.9, 0.95), [])):
        result = measure(blank, splits, judges(*accuracies), SMALL, ("transfer", "composition"))
        assert result["untrusted"] == untrusted
        assert result["figures"].keys() == result["seconds"].keys() == {"transfer", "composition"}


def test_a_result_that_cannot_be_written_is_shown_all_the_same(run, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_module, "load_judges", lambda *_: judges(1.0))
    monkeypatch.setattr(measure_module, "measure", functools.partial(measure, names=("content",)))
    shown = []
    returned = evaluate_run(run, SMALL, out=tmp_path / "x.json", show=shown.append)
    assert [returned] == shown == [json.loads((tmp_path / "x.json").read_text())]
    assert not (run / "evaluation_quick.json").exists()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure_module, "write_atomically", fail)
    with pytest.raises(UserError, match="The evaluation is done, but .*No space left"):
        evaluate_run(run, SMALL, show=shown.append)
    assert len(shown) == 2
