import numpy as np
import pytest

from infoae_jax.errors import UserError
from infoae_jax.inference.labels import as_labels, labels_for

NAMES = ("apple", "pear", "7")


@pytest.mark.parametrize(
    "given", [[1, 0], ("pear", "apple"), ["pear", 0], np.array([1, 0]), np.array(["pear", "apple"])]
)
def test_classes_by_number_and_name(given):
    labels = as_labels(given, NAMES, "content")
    assert labels.dtype == np.int32
    assert labels.tolist() == [1, 0]
    assert as_labels("7", NAMES, "content").tolist() == [2]


def test_images_are_no_classes(tmp_path):
    (tmp_path / "a.png").touch()
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), [str(tmp_path)], np.zeros((2, 2)), [np.zeros((2, 2))]):
        assert as_labels(given, NAMES, "content") is None


def test_one_class_is_for_all():
    assert labels_for(3, "pear", NAMES, "labels", "latents").tolist() == [1, 1, 1]
    assert labels_for(2, [0, 2], NAMES, "labels", "latents").tolist() == [0, 2]
    with pytest.raises(UserError, match="labels must be one class for each of the 3 latents, or one for all"):
        labels_for(3, [0, 2], NAMES, "labels", "latents")
    with pytest.raises(
        UserError, match=r"labels\[0\] is 'plum', which is neither a class nor a file. Classes: apple, pear"
    ):
        labels_for(2, ["plum", "pear"], NAMES, "labels", "latents")
