"""Positive controls on real MNIST: systems whose figures are known before anything is measured."""

import dataclasses

import numpy as np
import pytest

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.data.dataset import Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices.batching import make_batched
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.evaluation.judges import load_judges
from infoae_jax.evaluation.measure import measure
from infoae_jax.evaluation.metrics import System
from infoae_jax.evaluation.probes import Codes, measure_leakage
from infoae_jax.evaluation.record import FULL
from infoae_jax.inference.load import load
from infoae_jax.training import fit as fit_module
from infoae_jax.training.fit import fit
from tests.shared_data import SHARED, needs_shared

pytestmark = [pytest.mark.slow, needs_shared]
PROTOCOL = dataclasses.replace(FULL, test_images=3000, train_codes=20_000, probe_epochs=15)


@pytest.fixture(scope="module")
def config():
    values = mnist.get_config()
    values.data.dir = str(SHARED / "tensorflow_datasets")
    return values


@pytest.fixture(scope="module")
def splits(config):
    return load_splits(parse(config).data)


@pytest.fixture(scope="module")
def mesh():
    return data_mesh()


@pytest.fixture(scope="module")
def real_judges(config, splits, mesh):
    return load_judges(parse(config).data, splits, mesh)


@pytest.fixture(scope="module")
def autoencoder(config, splits, mesh, tmp_path_factory):
    """An ordinary autoencoder: lambda 0, and its decoder is always told the same class."""
    values = config.copy_and_resolve_references()
    values.train.lambda_adv, values.train.cycle_weight, values.train.epochs = 0.0, 0.0, 3
    values.model.couplings = values.refine.epochs = values.train.swap_weight = 0
    blind = [dataclasses.replace(split, labels=np.zeros_like(split.labels)) for split in splits[:2]]
    folder = tmp_path_factory.mktemp("runs") / "ordinary"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "load_splits", lambda _: Splits(*blind, "blind"))
        fit(parse(values), folder)
    trained = load(folder)
    model, variables = trained.module, trained.variables
    encode = make_batched(lambda v, x: model.apply(v, x, method="encode"), mesh, 28 * 28)
    decode = make_batched(lambda v, z: model.apply(v, z, np.zeros(len(z), np.int32), method="decode"), mesh, 28 * 28)
    return System(lambda images: encode(variables, images), lambda z, labels: decode(variables, z))


def test_judges_of_mnist_reach_their_threshold(real_judges):
    assert real_judges.are_trusted, real_judges.accuracies


def test_ordinary_autoencoder_leaks_and_transfers_nothing(autoencoder, splits, real_judges):
    figures = ("leakage", "reconstruction", "transfer")
    found = measure(autoencoder, splits, real_judges, PROTOCOL, figures)["figures"]
    assert found["leakage"]["probe_accuracy"] > 0.95
    assert found["leakage"]["information_bits"] > 2.8
    assert found["reconstruction"]["mse"] < 0.02
    assert found["transfer"]["transfer_accuracy"] < 0.01


def test_shuffled_classes_are_read_at_chance(autoencoder, splits):
    rng = np.random.default_rng(0)
    codes = [
        Codes(autoencoder.encode(split.images[:count]), rng.permutation(split.labels[:count]))
        for split, count in ((splits.train, 20_000), (splits.test, 3000))
    ]
    found = measure_leakage(*codes, 10, epochs=10)
    assert found["probe_accuracy"] < found["chance"] + 0.02
    assert found["information_bits"] < 0.01


def test_copying_the_source_transfers_nothing_and_keeps_the_style(splits, real_judges):
    system = System(
        lambda images: images.reshape(len(images), -1).astype(np.float32) / 255, lambda z, _: z.reshape(-1, 28, 28, 1)
    )
    found = measure(system, splits, real_judges, PROTOCOL, ("transfer", "style"))["figures"]
    assert found["transfer"]["transfer_accuracy"] < 0.002
    assert min(found["style"]["ceiling"].values()) == pytest.approx(1)
    # The class mean that is subtracted from a swap is that of the class asked for, which a copy does not show.
    assert found["style"]["correlation"]["slant"] > 0.92
    assert found["style"]["correlation"]["thickness"] > 0.92


def without_latent(images_of_classes):
    return System(lambda images: np.zeros((len(images), 16), np.float32), lambda _, labels: images_of_classes[labels])


def class_means(split):
    means = [split.images[split.labels == c].mean(0) for c in range(10)]
    return np.stack(means).astype(np.float32) / 255


def test_decoder_without_latent_leaks_nothing_and_has_the_error_of_class_means(splits, real_judges):
    system = without_latent(class_means(splits.train))
    found = measure(system, splits, real_judges, PROTOCOL, ("leakage", "reconstruction"))["figures"]
    assert found["leakage"]["probe_accuracy"] == pytest.approx(found["leakage"]["chance"], abs=0.01)
    assert found["reconstruction"]["mse"] == pytest.approx(0.0529, abs=0.001)  # no decoder without latent does better
    assert found["reconstruction"]["mse_increase_with_other_latent"] == pytest.approx(0, abs=1e-9)


def test_typical_image_of_the_class_transfers_all_and_keeps_no_style(splits, real_judges):
    """The training image nearest to the class mean; the mean itself is too blurred for the judges."""
    means, typical = class_means(splits.train), []
    for c in range(10):
        members = splits.train.images[splits.train.labels == c].astype(np.float32) / 255
        typical.append(members[((members - means[c]) ** 2).sum((1, 2, 3)).argmin()])
    system = without_latent(np.stack(typical))
    found = measure(system, splits, real_judges, PROTOCOL, ("transfer", "style"))["figures"]
    assert found["transfer"]["transfer_accuracy"] == 1
    assert all(np.isnan(r) or abs(r) < 0.05 for r in found["style"]["correlation"].values())
