import flax.serialization
import jax
import numpy as np
import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.cache import data_cache_folder
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.evaluation import judges as judges_module
from infoae_jax.evaluation.judges import augment, load_judges, trust_threshold


def bright_quarters(count, rng):
    """Images whose class is the quarter that is bright: learned in a moment."""
    labels = rng.integers(0, 4, count).astype(np.int32)
    images = rng.integers(0, 60, (count, 8, 8, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 190
    return Dataset(images, labels, tuple("abcd"))


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads judges of such images, and returns them with what was said; trains them the first time."""
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(tmp_path_factory.mktemp("judges"))
    config, rng = parse(values).data, np.random.default_rng(0)
    splits = Splits(bright_quarters(128, rng), bright_quarters(64, rng), "quarters")
    first = jax.local_devices()[:1]
    mesh = data_mesh(first)

    def call():
        said = []
        return load_judges(config, splits, mesh, said.append), said

    call.splits, call.folder = splits, data_cache_folder(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: first)
        patch.setattr(judges_module, "NUM_STEPS", 80)
        thin = tuple(tuple((filters // 4, *rest) for filters, *rest in shape) for shape in judges_module.CONVOLUTIONS)
        patch.setattr(judges_module, "CONVOLUTIONS", thin)
        call.first = call()
        yield call


def test_judges_are_trained_once_and_read_better_than_chance(load):
    found, said = load.first
    assert said
    assert len(found.accuracies) == 3
    assert min(found.accuracies) > 0.9
    assert found.are_trusted == (min(found.accuracies) >= found.threshold == 0.93)
    again, said = load()
    assert not said
    assert again.accuracies == found.accuracies
    test = load.splits.test
    read = again.predict(test.images)
    assert read.shape == (3, len(test))
    assert [(r == test.labels).mean() for r in read] == pytest.approx(found.accuracies)
    assert again.features(test.images[:5]).shape == (5, 256)


def test_damaged_judges_are_trained_again(load, monkeypatch):
    (path,) = load.folder.glob("judges-*.msgpack")
    whole = path.read_bytes()
    trained = flax.serialization.msgpack_restore(whole)["judges"]
    seeds = []

    def fit(module, images, labels, epochs, seed, change):
        assert (len(images), len(labels), epochs, change) == (128, 128, 20, augment)
        seeds.append(seed)
        return trained[seed], []

    monkeypatch.setattr(judges_module, "fit_classifier", fit)
    for damaged in (whole[:100], b""):
        path.write_bytes(damaged)
        found, said = load()
        assert said
        assert found.accuracies == load.first[0].accuracies
        assert path.read_bytes() == whole
    assert seeds == [0, 1, 2, 0, 1, 2]


def test_training_images_are_shifted_by_two_pixels_at_most():
    image = np.zeros((64, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    moved = np.asarray(augment(jax.numpy.asarray(image), jax.random.key(0)))
    places = np.argwhere(moved[..., 0] == 255)
    assert len(places) == 64
    offsets = places[:, 1:] - 4
    assert set(np.unique(offsets)) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(
    ("name", "count", "threshold"),
    [("mnist", 60_000, 0.993), ("rendered", 100, 0.93), ("svhn_cropped", 73_257, 0.93), ("svhn_cropped", 7_001, 0.85),
     ("folder", 100, 0.9)],
)  # fmt: skip
def test_threshold_of_the_data_set(name, count, threshold):
    assert trust_threshold(name, count) == threshold
