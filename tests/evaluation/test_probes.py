import numpy as np
import pytest

from infoae_jax.evaluation.probes import Codes, measure_leakage

pytestmark = pytest.mark.usefixtures("one_device")


def data(kind, count, seed=0, classes=4):
    """Codes [count, 6] of which the class can be read in a known way."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    codes = rng.standard_normal((count, 6)).astype(np.float32)
    if kind == "separate":
        codes[:, :2] += 8 * np.stack([labels % 2, labels // 2], 1)
    elif kind == "xor":  # each bit of the class is the product of two signs: no half-space tells it
        sign = np.where(np.stack([labels % 2, labels // 2], 1) == 1, 1, -1)
        codes[:, 2:4] = sign * np.sign(codes[:, :2]) * np.abs(codes[:, 2:4])
    elif kind == "constant":
        codes[:] = 1
    return Codes(codes * 1e-3 + 5, labels)  # as a latent may be: small and off zero


def test_class_that_is_there_is_read_by_all_probes():
    found = measure_leakage(data("separate", 600), data("separate", 300, 1), 4, epochs=8)
    for kind in ("fitted_on_training_codes", "cross_validated_on_unseen_codes", "split_of_training_codes"):
        assert min(found[kind].values()) > 0.98, kind
    assert found["information_bits"] > 0.9 * found["entropy_bits"] > 1.7
    assert found["probe_accuracy"] == max(
        *found["fitted_on_training_codes"].values(), *found["cross_validated_on_unseen_codes"].values()
    )


def test_class_that_only_a_network_can_read_is_found_by_one():
    found = measure_leakage(data("xor", 1500), data("xor", 200, 1), 4, epochs=12)
    assert found["fitted_on_training_codes"]["linear"] < 0.4
    assert found["fitted_on_training_codes"]["mlp_512"] > 0.85
    assert found["best_probe"].startswith("mlp")
    assert found["setting"] == "fitted_on_training_codes"  # more codes to learn from


@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_class_that_is_not_there_is_not_read(kind):
    found = measure_leakage(data(kind, 400), data(kind, 300, 1), 4, epochs=3)
    limit = found["chance"] + 4 * np.sqrt(0.25 * 0.75 / 300)
    assert found["probe_accuracy"] < limit
    assert found["information_bits"] < 0.05


def test_codes_that_overfit_give_away_the_training_images_only():
    train, test = data("separate", 400), data("noise", 300, 1)
    found = measure_leakage(train, test, 4, epochs=3)
    assert found["training_codes_accuracy"] > 0.98
    assert found["probe_accuracy"] < 0.45


def test_same_codes_give_the_same_figures():
    runs = [measure_leakage(data("xor", 120), data("xor", 60, 1), 4, epochs=2) for _ in range(2)]
    assert runs[0] == runs[1]


def test_few_codes_and_absent_classes_are_borne():
    codes, labels = data("separate", 40)
    labels = np.minimum(labels, 1)  # two of the four classes never occur
    found = measure_leakage(Codes(codes, labels), Codes(codes[:10], labels[:10]), 4, epochs=2)
    assert "cross_validated_on_unseen_codes" not in found  # ten codes are too few for folds
    assert found["setting"] == "fitted_on_training_codes"
    assert found["chance"] == np.bincount(labels[:10]).max() / 10
