"""Other methods: what their passes, losses and maps compute, and which rows are trained, tuned and measured."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import baselines, baselines_trained
from benchmarks.baselines_maps import erase_linearly, transport_to_barycentre
from benchmarks.baselines_released import MODELS, released_system
from benchmarks.baselines_trained import (
    RECIPES,
    Batch,
    Networks,
    Setting,
    build_networks,
    initial_params,
    seconds_per_epoch,
)
from configs import mnist
from infoae_jax.config import parse
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.errors import UserError
from infoae_jax.evaluation.judges import Judges
from infoae_jax.images.pixels import to_float
from infoae_jax.inference.npz import read_npz
from infoae_jax.pretrained.find import FOLDER
from tests.shared_data import SHARED

CONVOLUTIONS = {"conv_model.convolution_1": (16, 1, 5, 5), "conv_model.convolution_2": (32, 16, 5, 5)}
CONVOLUTIONS |= {"conv_model.convolution_3": (64, 32, 5, 5)}
TRANSPOSED = {"deconv_model.deconvolution_1": (128, 32, 4, 4), "deconv_model.deconvolution_2": (32, 16, 4, 4)}
TRANSPOSED |= {"deconv_model.deconvolution_3": (16, 1, 4, 4)}
FULLY = "fully_connected_varying_factor", "fully_connected_common_factor"
LAYERS = {  # of the released weights: those after the image, and those after the codes
    "cycle-vae": (
        ("varying_factor_mu", "varying_factor_logvar", "common_factor"),
        ("varying_factor", "common_factor"),
    ),
    "mathieu": (("style_mu", "style_logvar", "class_output"), ("style_input", "class_input")),
    "szabo": (FULLY, FULLY),
}


@pytest.fixture
def mesh():
    return data_mesh(jax.local_devices()[:1])


@pytest.fixture(scope="module")
def digits():
    """Random images of all classes, with the sizes of MNIST's."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), np.uint8)
    return Dataset(images, np.arange(60) % 10, tuple("0123456789"))


@pytest.fixture
def weights(tmp_path):
    """Random arrays with the names and shapes of the released weights."""
    rng = np.random.default_rng(0)

    def save(name, shapes):
        arrays = {f"{layer}.weight": rng.normal(0, 0.1, shape) for layer, shape in shapes.items()}
        outputs = {layer: shape[1] if "deconv" in layer else shape[0] for layer, shape in shapes.items()}
        arrays |= {f"{layer}.bias": rng.normal(0, 0.1, size) for layer, size in outputs.items()}
        np.savez_compressed(tmp_path / name, **{key: value.astype(np.float32) for key, value in arrays.items()})

    for name, (heads, inputs) in LAYERS.items():
        save(f"{name}__encoder.npz", CONVOLUTIONS | dict.fromkeys(heads, (16, 256)))
        save(f"{name}__decoder.npz", TRANSPOSED | dict.fromkeys(inputs, (256, 16)))
    heads = dict.fromkeys(("style_mu", "style_logvar", "class_mu", "class_logvar"), (10, 500))
    for noise in ("0.1", "1"):
        save(f"ml-vae__encoder_{noise}_var_reparam.npz", {"linear_model.linear_1": (500, 784)} | heads)
        decoder = {"linear_model.linear_1": (500, 20), "linear_model.linear_2": (784, 500)}
        save(f"ml-vae__decoder_{noise}_var_reparam.npz", decoder)
    return tmp_path


@pytest.mark.parametrize("name", MODELS)
def test_a_released_model_is_a_system(name, weights, digits, mesh):
    system = released_system(MODELS[name], weights, digits, mesh)
    z = system.encode(digits.images[:7])
    assert z.shape == (7, 10 if "ML" in name else 16)
    np.testing.assert_allclose(system.encode(digits.images[3:4]), z[3:4], atol=1e-5)  # whatever else is in the batch
    images = system.decode(z, digits.labels[:7])
    assert images.shape == (7, 28, 28, 1)
    assert 0 <= images.min() < images.max() <= 1
    assert (system.decode(z[:1], np.array([5])) != images[:1]).any()
    if "log_variance" in MODELS[name].parts:
        samples = released_system(MODELS[name], weights, digits, mesh, sampled=True).encode(
            np.repeat(digits.images[:1], 400, 0)
        )
        np.testing.assert_allclose(samples.mean(0), z[0], atol=1.0)
        assert samples.std(0).min() > 0.05


@pytest.mark.skipif(not (SHARED / "rivals").is_dir(), reason=f"there are no released weights in {SHARED}")
@pytest.mark.parametrize("name", [name for name in MODELS if "networks.py" not in name])
def test_the_released_weights_reconstruct_digits(name, mesh):
    extras = read_npz(FOLDER / "mnist.npz").extras
    data = Dataset(extras["examples/images"], extras["examples/labels"], tuple("0123456789"))
    system = released_system(MODELS[name], SHARED / "rivals", data, mesh)
    error = ((system.decode(system.encode(data.images), data.labels) - data.images / 255) ** 2).mean()
    assert error < (0.04 if name == "Cycle-VAE" else 0.025)  # class means: 0.053


def latents():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    turns = np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] * (1 + c) for c in range(3)])
    z = np.einsum("nij,nj->ni", turns[labels], rng.normal(size=(600, 5)) * np.arange(1, 6)) + labels[:, None]
    return z.astype(np.float32), labels


def test_linear_erasure_leaves_equal_means_and_changes_little_else():
    z, labels = latents()
    fitted = erase_linearly(z, labels)
    erased = fitted.forward(z, labels)
    means = np.stack([erased[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(means, means[:1].repeat(3, 0), atol=1e-4)
    assert np.linalg.matrix_rank(erased - erased.mean(0), tol=1e-2) == 3  # 5 less one for each class but the first
    back = fitted.back(erased, labels)
    for c in range(3):
        np.testing.assert_allclose(back[labels == c].mean(0), z[labels == c].mean(0), atol=1e-4)
    assert ((back - z) ** 2).mean() < ((erased - z) ** 2).mean()


def test_transport_gives_all_classes_one_mean_and_covariance_and_can_be_undone():
    z, labels = latents()
    fitted = transport_to_barycentre(z, labels)
    moved = fitted.forward(z, labels)
    moments = [(moved[labels == c].mean(0), np.cov(moved[labels == c].T)) for c in range(3)]
    for mean, covariance in moments[1:]:
        np.testing.assert_allclose(mean, moments[0][0], atol=1e-3)
        np.testing.assert_allclose(covariance, moments[0][1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fitted.back(moved, labels), z, atol=1e-3)


class Small(Networks):
    """The networks with a single layer each, which are quick to compile."""

    def setup(self):
        self.encoder, self.decoder = nn.Dense(self.outputs), nn.Dense(int(np.prod(self.image_shape)))
        self.adversary = [nn.Dense(4), nn.Dropout(0.3), nn.Dense(self.num_classes)]
        self.reader = nn.Dense(self.num_classes)

    def encode(self, images):
        return self.encoder(to_float(images).reshape(len(images), -1))

    def decode(self, z, labels):
        content = jax.nn.one_hot(labels, self.num_classes)
        return self.decoder(jnp.concatenate([z, content], axis=1)).reshape(-1, *self.image_shape)

    def read(self, images):
        return self.reader(to_float(images).reshape(len(images), -1))


@pytest.fixture
def bench(digits, mesh, tmp_path):
    """A tiny configuration of two epochs with three steps each, and judges that read nothing."""
    values = mnist.get_config("tiny")
    values.train.batch_size = 20
    judges = Judges((1.0,), 0.9, lambda images: np.zeros((1, len(images)), int), lambda images: images)
    return baselines.Bench(parse(values), Splits(digits, digits, "x"), mesh, judges, tmp_path)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(baselines_trained, "Networks", Small)


def gradient(recipe, bench, weight):
    model = build_networks(recipe, bench.config, bench.splits.train)
    params = initial_params(model, 0)
    images, labels = bench.splits.train.images[:10] / np.float32(255), bench.splits.train.labels[:10]
    batch = Batch(jnp.asarray(images), jnp.asarray(labels), jax.random.key(0), jnp.float32(1), jnp.float32(weight))
    return jax.jit(jax.grad(lambda p: recipe.loss(model, p, batch)))(params)


@pytest.mark.parametrize("name", RECIPES)
def test_each_method_trains_our_encoder_and_decoder(name, bench):
    shapes = jax.eval_shape(lambda: gradient(RECIPES[name], bench, 1))
    assert shapes["encoder"]["out"]["bias"].shape == (16 + {"variational": 16, "cycle": 16, "y": 10}.get(name, 0),)
    assert shapes["decoder"]["Dense_0"]["kernel"].shape == (26, 32)


def test_the_networks_see_standardised_pixels(bench, digits):
    model = build_networks(RECIPES["conditional"], bench.config, digits)
    (mean,), deviation = model.pixel_mean, model.pixel_deviation
    assert (mean, deviation) == pytest.approx((digits.images.mean() / 255, digits.images.std() / 255))
    params, raw = initial_params(model, 0), model.clone(pixel_mean=(0.0,), pixel_deviation=1.0)
    call = lambda module, method, *args: module.apply({"params": params}, *args, method=method)  # noqa: E731
    standardised = (digits.images[:5] / np.float32(255) - mean) / deviation
    for method in ("encode", "read"):
        found = call(model, method, digits.images[:5])
        np.testing.assert_allclose(found, call(raw, method, standardised), rtol=1e-3, atol=1e-4)
    z, labels = jnp.ones((5, 16)), digits.labels[:5]
    pixels = call(raw, "decode", z, labels) * deviation + mean
    np.testing.assert_allclose(call(model, "decode", z, labels), pixels, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "untouched"), [("cycle", "decoder"), ("fader", "adversary")])
def test_the_terms_of_a_method_train_the_encoder_alone(name, untouched, bench):
    without, with_terms = (gradient(RECIPES[name], bench, weight) for weight in (0, 1))
    part = {key for key in without if key.startswith(untouched)}
    assert part
    jax.tree.map(np.testing.assert_array_equal, *({key: g[key] for key in part} for g in (without, with_terms)))
    encoders = (jax.tree.leaves(g["encoder"]) for g in (without, with_terms))
    assert all((a != b).any() for a, b in zip(*encoders, strict=True))


@pytest.mark.usefixtures("small")
def test_rows_are_tuned_trained_and_measured_once(bench, monkeypatch, capsys):
    trained, train = [], baselines_trained.train

    def counted(recipe, config, data, setting, seed, mesh):
        trained.append((setting, seed))
        return train(recipe, config, data, setting, seed, mesh)

    def measure(system, splits, *_):
        z = system.encode(splits.test.images)
        assert z.shape == (60, 16)
        assert system.decode(z, splits.test.labels).shape == (60, 28, 28, 1)
        kept = trained[-1][0].learning_rate  # so that the larger rate is the best
        return {
            "figures": {
                "leakage": {"probe_accuracy": 0.3, "chance": 0.1, "highest": {"folds_by_group": 0.3}},
                "reconstruction": {"mse": 0.02},
                "transfer": {"transfer_accuracy": 0.9},
                "style": {"correlation": {"slant": kept, "thickness": float("nan"), "area": 0.5}},
            }
        }

    monkeypatch.setattr(baselines_trained, "train", counted)
    monkeypatch.setattr(baselines, "measure", measure)
    monkeypatch.setitem(
        RECIPES, "variational", RECIPES["variational"]._replace(settings=(Setting(1e-3, 0.1), Setting(2e-3, 0.1)))
    )
    rows = ["conditional VAE, mean code", "conditional VAE, sampled code"]
    with pytest.raises(UserError, match=r"'variational' is not tuned"):
        baselines.run_all(rows, [0], bench, None)
    for _ in range(2):
        baselines.tune(["variational"], bench)
        baselines.run_all(rows, [0], bench, None)
    assert trained == [(Setting(1e-3, 0.1), 0), (Setting(2e-3, 0.1), 0), (Setting(2e-3, 0.1), 0)]
    capsys.readouterr()
    baselines.ablation.print_table(baselines.results(bench.out, None), baselines.COLUMNS)
    table = capsys.readouterr().out
    assert table.count("\n") == 4
    assert "| conditional VAE, sampled code | 1 |  | 30.0 |  | 0.0200 | 90.0 | 0.00 |  | 0.50 |" in table
    record = json.loads((bench.out / "conditional_VAE_mean_code-seed0.json").read_text())
    assert record["settings"] == {"learning_rate": 0.002, "weight": 0.1}


def test_an_epoch_has_as_many_steps_as_batches(bench, small, monkeypatch):
    calls = []
    monkeypatch.setattr(baselines_trained, "median_ms", lambda take, repeats: [calls.append(take()), 2000.0][1])
    steps = len(bench.splits.train) // bench.config.train.batch_size
    assert seconds_per_epoch(RECIPES["fader"], bench.config, bench.splits.train, bench.mesh) == 2 * steps
    assert len(calls) == 1


def test_each_row_has_a_file_of_its_own(tmp_path):
    for row in baselines.ROWS:
        path = baselines.result_file(tmp_path, row, 0)
        assert path.suffix == ".json"
        path.write_text('{"diverged": true}')
    assert baselines.results(tmp_path, None) == {row: ["diverged"] for row in baselines.ROWS}


def test_controls_know_the_class_alone(bench):
    train, labels = bench.splits.train, np.array([3, 1], np.int32)
    means, nearest = (baselines.control(name, bench.splits) for name in baselines.CONTROLS)
    assert not means.encode(train.images).any()
    for answer, image, label in zip(means.decode(None, labels), nearest.decode(None, labels), labels, strict=True):
        members = train.images[train.labels == label] / np.float32(255)
        np.testing.assert_allclose(answer, members.mean(0), atol=1e-6)
        errors = ((members - answer) ** 2).sum((1, 2, 3))
        assert ((image - answer) ** 2).sum() == pytest.approx(errors.min())


def test_what_has_diverged_is_not_measured_and_not_chosen(bench):
    system = baselines.control(baselines.CLASS_MEANS, bench.splits)._replace(
        encode=lambda images: np.full((len(images), 2), np.nan)
    )
    record = baselines.measure_row(system, bench, None, baselines.QUICK)
    assert record["diverged"]
    assert baselines.score(record) == -float("inf")


def test_writers_are_on_one_side_only(digits):
    writers = np.repeat(np.arange(20), 3)
    kept, held, _ = baselines.hold_out(Splits(digits, digits, "x"), writers)
    assert (len(kept), len(held)) == (51, 9)
    sides = [
        {writers[np.flatnonzero((digits.images == image).all((1, 2, 3)))[0]] for image in side.images}
        for side in (kept, held)
    ]
    assert not sides[0] & sides[1]
