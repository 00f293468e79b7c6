import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from infoae_jax.config import parse
from infoae_jax.data.cache import data_cache_folder
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.evaluation import judges
from infoae_jax.evaluation import judges as judges_module
from infoae_jax.evaluation.judges import load_judges

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def splits(tiny, tmp_path):
    """Images whose class is the quarter that is bright: learned in a moment."""
    tiny.data.cache_dir = str(tmp_path)
    rng = np.random.default_rng(0)

    def make(count):
        labels = rng.integers(0, 4, count).astype(np.int32)
        images = rng.integers(0, 100, (count, 12, 12, 1), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[6 * (label // 2) :, 6 * (label % 2) :][:6, :6] += 150
        return Dataset(images, labels, tuple("abcd"))

    return parse(tiny).data, Splits(make(256), make(64), "quarters")


@pytest.fixture
def load(splits, monkeypatch):
    monkeypatch.setattr(judges, "_STEPS", 40)
    mesh = Mesh(np.array(jax.local_devices()), ("data",))

    def call():
        said = []
        return load_judges(*splits, mesh, said.append), said

    return call


def test_judges_are_trained_once_and_read_better_than_chance(load, splits):
    found, said = load()
    assert said
    assert len(found.accuracies) == 3
    assert min(found.accuracies) > 0.9
    assert found.trusted == (min(found.accuracies) >= found.threshold == 0.93)
    again, said = load()
    assert not said
    assert again.accuracies == found.accuracies
    test = splits[1].test
    read = again.read(test.images)
    assert read.shape == (3, len(test))
    assert [(r == test.labels).mean() for r in read] == pytest.approx(found.accuracies)
    assert again.features(test.images[:5]).shape == (5, 256)


def test_damaged_judges_are_trained_again(load, splits):
    load()
    (path,) = data_cache_folder(splits[0]).glob("judges-*.msgpack")
    path.write_bytes(path.read_bytes()[:100])
    found, said = load()
    assert said
    assert min(found.accuracies) > 0.9


def test_training_images_are_shifted_by_two_pixels_at_most():
    image = np.zeros((64, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    moved = np.asarray(judges_module._shifted(jax.numpy.asarray(image), jax.random.key(0)))
    places = np.argwhere(moved[..., 0] == 255)
    assert len(places) == 64
    offsets = places[:, 1:] - 4
    assert set(np.unique(offsets)) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize(
    ("name", "count", "threshold"),
    [("mnist", 60_000, 0.993), ("rendered", 100, 0.93), ("svhn_cropped", 73_257, 0.93), ("svhn_cropped", 7_001, 0.85),
     ("folder", 100, 0.9)],
)  # fmt: skip
def test_bar_of_the_data_set(name, count, threshold):
    assert judges_module._threshold(name, count) == threshold
