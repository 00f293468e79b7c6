import time

import numpy as np
import pytest

from configs import folder, mnist
from infoae_jax.data.dataset import Dataset
from infoae_jax.data.load import _warn_of_copies, load_splits
from infoae_jax.errors import UserError
from tests import tfds_files
from tests.data_config import config_of


def test_train_and_test_of_different_size(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test", size=(28, 28))
    with pytest.raises(UserError, match=r"\(32, 32, 3\).*\(28, 28, 3\)"):
        load_splits(config_of(folder, tmp_path, dir=str(root), image_size=0))


@pytest.mark.parametrize(("label", "says"), [(-1, "labels from -1"), (10, "labels from 0 to 10")])
def test_labels_out_of_range(tmp_path, label, says):
    images, labels = tfds_files.random_split((28, 28, 1), 10, 0)
    bad = np.array([*labels[:-1], label])
    path = tfds_files.write(
        tmp_path / "tfds", "mnist", "3.0.1", (28, 28, 1), {"train": (images, bad), "test": (images, labels)}
    )
    with pytest.raises(UserError, match=says):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


def test_subsets_are_seeded_and_mixed(fake_mnist, tmp_path):
    path, (full, _) = fake_mnist[0], fake_mnist[1].values()
    splits = load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1]), num_train=30, num_test=5))
    assert (len(splits.train), len(splits.test)) == (30, 5)
    assert not np.array_equal(splits.train.images, full[0][:30])


def test_images_in_both_splits_are_counted(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test", seed=1)
    for i, name in enumerate(("apple/0.png", "pear/1.png")):
        (root / "test" / "pear" / f"copy{i}.png").write_bytes((root / "train" / name).read_bytes())
    config = config_of(folder, tmp_path, dir=str(root))
    for _ in range(2):  # also from the cache
        with pytest.warns(UserWarning, match="2 test images are also training images; the figures will look better"):
            load_splits(config)
    (root / "test" / "pear" / "copy0.png").unlink()
    with pytest.warns(UserWarning, match="1 test image is also a training image"):
        load_splits(config)


def test_copies_are_counted_in_seconds():
    rng = np.random.default_rng(0)
    train, test = (
        Dataset(rng.integers(0, 256, (n, 28, 28, 1), np.uint8), np.zeros(n, int), ()) for n in (60000, 10000)
    )
    begin = time.process_time()
    _warn_of_copies(train, test)
    assert time.process_time() - begin < 5
