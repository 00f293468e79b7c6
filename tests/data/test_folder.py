import numpy as np
import pytest
from PIL import Image

from configs import folder
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests.data_config import config_of


def test_folder_is_split_by_class_and_shuffled(image_folder, tmp_path):
    root = image_folder(("a", "b", "c"), count=10)
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert np.bincount(splits.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(splits.test.labels).tolist() == [2, 2, 2]
    assert splits.train.class_names == ("a", "b", "c")
    assert (np.diff(splits.train.labels) < 0).any()  # not sorted by class
    everything = np.concatenate([splits.train.images, splits.test.images])
    assert len({image.tobytes() for image in everything}) == 30  # no image on both sides
    other = load_splits(config_of(folder, tmp_path, dir=str(root), seed=1))
    assert not np.array_equal(other.test.images, splits.test.images)


def test_train_and_test_folders_are_kept_apart(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test")
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert (len(splits.train), len(splits.test)) == (8, 4)
    image_folder(("plum",), count=1, root=root / "test")
    with pytest.raises(UserError, match="'plum'"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_unreadable_images_are_named(image_folder, tmp_path):
    root = image_folder()
    (root / "pear" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"pear/lost\.png"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_changed_folder_is_read_again(image_folder, tmp_path):
    root = image_folder(count=4)
    first = load_splits(config_of(folder, tmp_path, dir=str(root)))
    Image.new("RGB", (32, 32)).save(root / "pear" / "0.png")
    second = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert first.fingerprint != second.fingerprint


def test_folders_that_cannot_work(image_folder, tmp_path):
    def load(root, **overrides):
        return load_splits(config_of(folder, tmp_path, dir=str(root), **overrides))

    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no sub-folder"):
        load(empty)
    one = image_folder(("only",), root=tmp_path / "one")
    with pytest.raises(UserError, match="only 'only'"):
        load(one)
    (one / "hollow").mkdir()
    with pytest.raises(UserError, match=r"hollow has no PNG or JPEG"):
        load(one)
    single = image_folder(count=1, root=tmp_path / "single")
    with pytest.raises(UserError, match="has 1 image"):
        load(single)
    mixed = image_folder(root=tmp_path / "mixed")
    Image.new("RGB", (40, 24)).save(mixed / "pear" / "0.png")
    with pytest.raises(UserError, match=r"differ in size.*data\.image_size=32"):
        load(mixed, image_size=0)
    assert load(mixed).train.images.shape[1:] == (32, 32, 3)
