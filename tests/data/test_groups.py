import numpy as np
import pytest

from configs import folder, mnist, rendered
from infoae_jax.data.groups import load_groups
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests.data_config import config_of


@pytest.fixture
def config(fake_mnist, tmp_path):
    return config_of(mnist, tmp_path / "cache", dir=str(tmp_path / "tfds"))


def write(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_groups_of_a_file_are_those_of_the_test_images(config, tmp_path):
    writers = np.arange(20, dtype=np.int16) // 4
    found = load_groups(write(tmp_path / "w.npz", train=np.zeros(64), test=writers), config, load_splits(config))
    assert found.tolist() == writers.tolist()


def test_groups_follow_the_images_that_were_chosen(fake_mnist, tmp_path):
    config = config_of(mnist, tmp_path / "cache", dir=str(tmp_path / "tfds"), num_test=7)
    splits, (images, _) = load_splits(config), fake_mnist[1]["test"]
    found = load_groups(write(tmp_path / "w.npz", test=np.arange(20)), config, splits)
    np.testing.assert_array_equal(images[found].reshape(splits.test.images.shape), splits.test.images)


def test_a_feature_of_tfds_and_the_fonts_of_the_rendered_digits(config, tmp_path):
    splits = load_splits(config)
    assert load_groups("label", config, splits).tolist() == splits.test.labels.tolist()
    with pytest.raises(UserError, match="'mnist' has no feature 'writer' of numbers, only image, label"):
        load_groups("writer", config, splits)
    assert load_groups("", config, splits) is None
    drawn = config_of(rendered, tmp_path / "cache", "tiny")
    splits = load_splits(drawn)
    assert load_groups("", drawn, splits).tolist() == splits.test.factors["font"].tolist()
    with pytest.raises(UserError, match=r"--groups is 'writer', but must be an \.npz file"):
        load_groups("writer", drawn, splits)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"train": np.arange(20)}, "w.npz cannot be read .* whole number for each image in 'test'"),
        ({"test": np.arange(19)}, r"holds int64\[19\], but must hold a whole number for each of the 20 test"),
        ({"test": np.arange(20.0)}, r"holds float64\[20\]"),
        ({"test": np.array([None] * 20)}, "w.npz cannot be read"),
        ({"test": np.arange(20) % 4}, "holds 4 groups, but leakage by group needs 5 or more"),
    ],
)
def test_what_are_no_groups_is_refused(config, tmp_path, arrays, says):
    with pytest.raises(UserError, match=says):
        load_groups(write(tmp_path / "w.npz", **arrays), config, load_splits(config))
    with pytest.raises(UserError, match="nowhere.npz cannot be read"):
        load_groups("nowhere.npz", config, load_splits(config))


def test_image_folders_have_no_order_to_go_by(image_folder, tmp_path):
    config = config_of(folder, tmp_path / "cache", dir=str(image_folder()))
    with pytest.raises(UserError, match="--groups is not for image folders"):
        load_groups(write(tmp_path / "w.npz", test=np.arange(20)), config, load_splits(config))
