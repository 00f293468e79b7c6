import numpy as np
import pytest

from configs import folder, mnist
from infoae_jax.data.load import load_splits
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
