import numpy as np
import pytest

from infoae_jax.evaluation import probes
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
    for kind in ("fitted_on_training_codes", "folds_at_random", "split_of_training_codes"):
        assert min(found[kind].values()) > 0.98, kind
    assert found["information_bits"] > 0.9 * found["entropy_bits"] > 1.7
    assert found["probe_accuracy"] == max(
        *found["fitted_on_training_codes"].values(), *found["folds_at_random"].values()
    )


def test_class_that_only_a_network_can_read_is_found_by_one():
    found = measure_leakage(data("xor", 1500), data("xor", 200, 1), 4, epochs=12)
    assert found["fitted_on_training_codes"]["linear"] < 0.4
    assert found["fitted_on_training_codes"]["mlp_512"] > 0.85
    assert found["best_probe"].startswith("mlp")
    assert found["protocol"] == "fitted_on_training_codes"  # more codes to learn from


def test_a_few_codes_far_out_do_not_blind_the_probes():
    train, test = data("separate", 600), data("separate", 300, 1)
    for codes in train, test:
        codes.z[:6] *= -1e5
    found = measure_leakage(train, test, 4, epochs=8)
    for kind in ("fitted_on_training_codes", "folds_at_random"):
        assert found[kind]["knn_10"] > 0.95, kind
        assert found[kind]["mlp_256"] > 0.95, kind


@pytest.mark.parametrize("factor", [1, 1e-30])
def test_codes_that_are_not_far_out_are_standardised_as_they_are(factor):
    fit, test = data("separate", 600), data("separate", 300, 1)
    fit, test = (codes._replace(z=(codes.z - 5) * np.float32(factor)) for codes in (fit, test))
    for codes, found in zip((fit, test), probes._standardise(fit, test), strict=True):
        sd = fit.z.std(0)
        expected = (codes.z - fit.z.mean(0)) / (sd if factor == 1 else 1)
        np.testing.assert_array_equal(found.z, expected)
        assert found.z.dtype == np.float32


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


def test_what_only_a_groups_other_members_tell_is_read_at_random_but_not_by_group():
    """Each writer has a spot for each class, which says nothing about the spots of others."""
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(40), 10), np.tile(np.arange(2), 200).astype(np.int32)
    spots = rng.standard_normal((40, 2, 6))
    codes = (spots[groups, labels] + 0.01 * rng.standard_normal((400, 6))).astype(np.float32)
    found = measure_leakage(data("noise", 200, classes=2), Codes(codes, labels), 2, epochs=4, groups=groups)
    assert found["highest"]["folds_at_random"] > 0.8
    assert found["highest"]["folds_by_group"] < 0.7
    assert found["groups"] == 40
    low, high = found["interval"]["folds_by_group"]
    assert low < found["highest"]["folds_by_group"] < high


def test_intervals_hold_the_truth_and_grow_with_the_size_of_groups():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(100) < 0.3, 10).astype(float)  # all of a group or none
    by_image, by_group = (probes._interval(right, groups, 0) for groups in (None, np.repeat(np.arange(100), 10)))
    assert by_group[0] < 0.3 < by_group[1]
    assert by_group[1] - by_group[0] == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100), rel=0.2)
    assert by_image[1] - by_image[0] == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000), rel=0.2)


@pytest.mark.parametrize("count", [2, 4])
def test_too_few_groups_have_no_folds(count):
    found = measure_leakage(data("noise", 100), data("noise", 100, 1), 4, epochs=1, groups=np.arange(100) % count)
    assert "folds_by_group" not in found


def test_same_codes_give_the_same_figures():
    runs = [measure_leakage(data("xor", 120), data("xor", 60, 1), 4, epochs=2) for _ in range(2)]
    assert runs[0] == runs[1]


def test_few_codes_and_absent_classes_are_borne():
    codes, labels = data("separate", 40)
    labels = np.minimum(labels, 1)  # two of the four classes never occur
    found = measure_leakage(Codes(codes, labels), Codes(codes[:10], labels[:10]), 4, epochs=2)
    assert "folds_at_random" not in found  # ten codes are too few for folds
    assert found["protocol"] == "fitted_on_training_codes"
    assert found["chance"] == np.bincount(labels[:10]).max() / 10
