"""Systems whose figures are known beforehand, and a real run."""

import dataclasses
import json

import numpy as np
import pytest

from infoae_jax.cli.main import main
from infoae_jax.config import parse
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import Factors, render
from infoae_jax.devices import setup as device_setup
from infoae_jax.errors import UserError
from infoae_jax.evaluation import figures as figures_module
from infoae_jax.evaluation import measure as measure_module
from infoae_jax.evaluation import record
from infoae_jax.evaluation.figures import FIGURES, System
from infoae_jax.evaluation.judges import Judges
from infoae_jax.evaluation.measure import evaluate_run, measure
from infoae_jax.evaluation.record import PROTOCOLS, QUICK, read_evaluation
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training.fit import fit

pytestmark = pytest.mark.usefixtures("one_device")

SMALL = dataclasses.replace(QUICK, train_codes=200, probe_epochs=2)


@pytest.fixture(scope="module")
def splits(cache):
    from configs import rendered as config

    values = config.get_config("tiny")
    values.data.cache_dir = str(cache)
    return load_splits(parse(values).data)


@pytest.fixture(scope="module")
def worlds(splits):
    """Every style of the test and training images with every digit, by the picture's bytes: style's number, digit."""
    known, styles = {}, []
    for split in splits[:2]:
        styles.append(Factors(**split.factors))
        for digit in range(10):
            pictures = render(styles[-1], np.full(len(split), digit))
            known |= {p.tobytes(): (1000 * len(styles) + i, digit) for i, p in enumerate(pictures)}

    def draw(number, digit):
        style = styles[number // 1000 - 1][np.array([number % 1000])]
        return render(style, np.array([digit]))[0]

    return known, draw


@pytest.fixture(scope="module")
def all_knowing(worlds):
    """Judges that know every true picture; a picture that is none reads as class 0."""
    known, _ = worlds

    def read(pictures):
        verdict = [known.get(p.tobytes(), (0, 0))[1] for p in pictures]
        return np.tile(np.array(verdict, np.int32), (3, 1))

    def features(pictures):
        return pictures.reshape(len(pictures), -1)[:, ::97].astype(np.float32)

    return Judges((1.0, 1.0, 1.0), 0.9, read, features)


def copying(splits):
    """An ordinary autoencoder without loss: the latent is the image, the class is not used."""
    shape = splits.test.images.shape[1:]
    return System(
        lambda images: images.reshape(len(images), -1).astype(np.float32) / 255,
        lambda z, labels: z.reshape(-1, *shape),
    )


def perfect(worlds):
    """The latent is the style's number, and the picture the true one."""
    known, draw = worlds
    return System(
        lambda images: np.array([[known[image.tobytes()][0]] for image in images], np.float32),
        lambda z, labels: (
            np.stack([draw(int(n[0]), c) for n, c in zip(z, labels, strict=True)]).astype(np.float32) / 255
        ),
    )


def styleless(splits):
    """Draws the mean picture of the class."""
    train = splits.train
    means = np.stack([train.images[train.labels == c].mean(0) for c in range(10)]).astype(np.float32) / 255
    return System(lambda images: np.zeros((len(images), 2), np.float32), lambda z, labels: means[labels])


def test_copying_the_source_transfers_nothing_and_keeps_all_style(splits, all_knowing):
    figures = tuple(name for name in FIGURES if name != "leakage")
    found = measure(copying(splits), splits, all_knowing, SMALL, figures)["figures"]
    assert found["reconstruction"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["reconstruction"]["ssim"] == 1
    assert found["reconstruction"]["mse_increase_with_other_latent"] > 0.01
    assert found["transfer"]["transfer_accuracy"] == 0
    assert found["transfer"]["swaps"] == 9 * len(splits.test)
    assert found["style"]["ceiling"] == pytest.approx(dict.fromkeys(found["style"]["ceiling"], 1))
    # Not 1, since the mean of the class asked for is subtracted, which a copy does not show; and these are few images.
    assert min(found["style"]["correlation"].values()) > 0.75
    assert found["style"]["background_delta_e"] == pytest.approx(0, abs=1e-6)
    assert found["composition"] == {"l1_after_1": 0, "l1_after_10": 0, "accuracy_after_10": 1}
    assert found["reversibility"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["reversibility"]["r2"] == pytest.approx(1)
    assert found["counterfactual"]["mse"] > 0.005


def test_perfect_transfer_has_perfect_figures(splits, worlds, all_knowing):
    figures = ("reconstruction", "transfer", "style", "counterfactual", "composition")
    found = measure(perfect(worlds), splits, all_knowing, SMALL, figures)["figures"]
    assert found["counterfactual"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["counterfactual"]["ssim"] == 1
    assert found["transfer"]["transfer_accuracy"] == 1
    assert found["transfer"]["confusion"] == np.eye(10).tolist()
    assert found["composition"]["l1_after_10"] == 0
    assert found["style"]["background_delta_e"] < found["style"]["foreground_delta_e"] < 10


def test_class_mean_has_no_style(splits, all_knowing):
    result = measure(styleless(splits), splits, all_knowing, SMALL)
    found = result["figures"]
    assert found["leakage"]["probe_accuracy"] < 0.25  # a constant latent
    assert found["reconstruction"]["mse_increase_with_other_latent"] == pytest.approx(0, abs=1e-9)
    assert all(np.isnan(r) or abs(r) < 0.3 for r in found["style"]["correlation"].values())
    assert np.isnan(found["reversibility"]["r2"])  # a constant latent has no variance to explain
    assert not result["left_out"].keys() - {"realism", "content"}


def test_figures_that_make_no_sense_are_left_out_with_the_reason(splits, all_knowing):
    def bright_and_grey(split):
        return Dataset(255 - split.images[..., :1] // 4, split.labels, split.class_names)

    grey = Splits(bright_and_grey(splits.train), bright_and_grey(splits.test), "")
    result = measure(copying(grey), grey, all_knowing, SMALL, ("content", "style", "counterfactual", "realism"))
    assert result["figures"] == {}
    assert "dark border" in result["left_out"]["style"]
    assert "does not read" in result["left_out"]["content"]
    assert "embedded" in result["left_out"]["counterfactual"]
    assert "200" in result["left_out"]["realism"]


def test_judges_below_their_bar_are_not_trusted(splits, all_knowing):
    poor = dataclasses.replace(all_knowing, accuracies=(0.95, 0.89, 0.95))
    result = measure(copying(splits), splits, poor, SMALL, ("transfer", "reconstruction"))
    assert result["untrusted"] == ["transfer"]


def test_formulas():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5000, 4))
    assert figures_module._frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert figures_module._frechet(a, a + [3, 0, 0, 0]) == pytest.approx(9, rel=1e-6)
    # N(0, 1) against N(0, 4) in each of four dimensions: 4 (1 + 4 - 2 * 2).
    assert figures_module._frechet(a, 2 * a) == pytest.approx(4, rel=0.05)
    assert figures_module._coverage(a[:500], a[:200]) == 1
    assert figures_module._coverage(a[:500], a[:200] + 100) == 0
    partner = figures_module._others_of_class(np.array([0, 1, 0, 2, 1]))
    assert partner.tolist() == [2, 4, 0, -1, 1]
    assert figures_module._correlation(np.array([1, 2, np.nan, 4]), np.array([2, 4, 6, 8])) == pytest.approx(1)
    classes = np.array([0, 0, 1, 1])
    assert figures_module._residual(np.array([1.0, 3, 10, 20]), classes).tolist() == [-1, 1, -5, 5]


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    from configs import rendered as config

    values = config.get_config("tiny")
    values.data.cache_dir = str(cache)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    fit(parse(values), folder)
    return folder


def test_same_run_gives_the_same_file_but_for_its_cost(run, all_knowing, monkeypatch, capsys):
    poor = dataclasses.replace(all_knowing, accuracies=(0.5, 0.5, 0.5))
    monkeypatch.setattr(measure_module, "load_judges", lambda *_: poor)
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)  # too late in this process
    monkeypatch.setitem(PROTOCOLS, "quick", SMALL)
    monkeypatch.setattr(record, "QUICK", SMALL)
    records = []
    for _ in range(2):
        assert main(["evaluate", "--quick", str(run)]) == 0
        records.append(json.loads((run / "evaluation_quick.json").read_text()))
        assert records[-1].pop("cost")["parameters"] > 1000
    assert records[0] == records[1]
    assert records[0]["untrusted"] == ["transfer"]
    printed = capsys.readouterr().out
    for word in ("leakage", "untrusted", "counterfactual", "left out", "images/s"):
        assert word in printed
    read = read_evaluation(run)
    assert read["protocol"]["name"] == "quick"
    assert read["figures"]["content"]["content_accuracy"] == pytest.approx(
        read_metrics(run, "test")[-1]["content_accuracy"], abs=1e-6
    )


def test_run_on_other_images_is_refused(run, tmp_path, capsys):
    record = json.loads((run / "config.json").read_text())
    copy = tmp_path / "copy"
    (copy / "checkpoints").parent.mkdir()
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    record["data"]["fingerprint"] = "another"
    (copy / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="not those that the run was trained on"):
        evaluate_run(copy)
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
    assert "not a run folder" in capsys.readouterr().err
