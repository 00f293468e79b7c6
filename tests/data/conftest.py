import pytest

from tests import tfds_files


@pytest.fixture
def fake_mnist(tmp_path):
    shape = (28, 28, 1)
    splits = {"train": tfds_files.random_split(shape, 64, 0), "test": tfds_files.random_split(shape, 20, 1)}
    return tfds_files.write(tmp_path / "tfds", "mnist", "3.0.1", shape, splits), splits
