import dataclasses

import pytest

from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.inference.run_data import example_images, load_run_data
from infoae_jax.runs.folder import RunInfo


def info_of(config, fingerprint):
    return RunInfo(config, (32, 32, 3), tuple("0123456789"), 256, 64, fingerprint)


def test_examples_are_of_all_classes(tiny_config):
    images, labels = example_images(info_of(tiny_config, "x"), 20)
    assert images.shape == (20, 32, 32, 3)
    assert labels.tolist() == list(range(10)) * 2


def test_examples_of_a_folder_are_its_test_images(tiny, image_folder):
    from infoae_jax.config import parse

    folder = image_folder(count=10)
    tiny.data.update(name="folder", dir=str(folder), test_fraction=0.5, image_size=32, channels=3)
    tiny.data.num_train = tiny.data.num_test = 0
    config = parse(tiny)
    splits = load_splits(config.data)
    images, labels = example_images(info_of(config, splits.fingerprint), 5)
    assert labels.tolist() == [0, 1, 0, 1, 0]
    first_pear = splits.test.images[splits.test.labels == 1][0]
    assert (images[1] == first_pear).all()


def test_another_data_set_is_not_taken_for_the_runs(tiny_config):
    data = dataclasses.replace(tiny_config.data, seed=5)
    config = dataclasses.replace(tiny_config, data=data)
    with pytest.raises(UserError, match=r"The images of 'rendered' found now \(256 \+ 64\) are not those that the run"):
        load_run_data(info_of(config, load_splits(tiny_config.data).fingerprint))
