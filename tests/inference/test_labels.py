import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infoae_jax.errors import UserError
from infoae_jax.images.read import read_images
from infoae_jax.inference.labels import as_labels, labels_for

NAMES = ("apple", "pear", "2")


@pytest.mark.parametrize(
    "classes", [[1, 0], ("pear", "apple"), ["pear", 0], np.array([1, 0]), np.array(["pear", "apple"])]
)
def test_classes_by_number_and_name(classes):
    labels = as_labels(classes, NAMES, "content")
    assert labels.dtype == np.int32
    assert labels.tolist() == [1, 0]
    assert as_labels("2", NAMES, "content").tolist() == [2]
    assert as_labels(range(2), NAMES, "content").tolist() == [0, 1]


def test_images_are_no_classes(tmp_path):
    (tmp_path / "a.png").touch()
    for images in (tmp_path / "a.png", str(tmp_path / "a.png"), [str(tmp_path)], np.zeros((2, 2)), [np.zeros((2, 2))]):
        assert as_labels(images, NAMES, "content") is None


def test_one_class_is_for_all():
    assert labels_for(3, "pear", NAMES, "labels", "latents").tolist() == [1, 1, 1]
    assert labels_for(2, [0, 2], NAMES, "labels", "latents").tolist() == [0, 2]
    with pytest.raises(UserError, match="labels must be one class for each of the 3 latents, or one for all"):
        labels_for(3, [0, 2], NAMES, "labels", "latents")
    with pytest.raises(
        UserError, match=r"labels\[0\] is 'plum', which is neither a class nor a file. Classes: apple, pear"
    ):
        labels_for(2, ["plum", "pear"], NAMES, "labels", "latents")


NUMBERS = ("1", "2", "10", "20")


@given(st.integers(-5, 30))
def test_a_number_is_the_class_of_that_name_however_it_is_written(number):
    forms = [number, [number], np.array([number]), np.int64(number), np.array([[number]]), jnp.array([number])]
    for form in [*forms, str(number), [str(number)]]:
        if str(number) in NUMBERS:
            assert as_labels(form, NUMBERS, "content").tolist() == [NUMBERS.index(str(number))]
        else:
            with pytest.raises(UserError, match=f"{number}.*Classes: 1, 2, 10, 20"):
                as_labels(form, NUMBERS, "content")


def test_one_name_that_is_another_number_makes_all_numbers_names():
    names = ("1", "2", "3", "x")
    assert as_labels([1, 3, "x"], names, "content").tolist() == [0, 2, 3]
    with pytest.raises(UserError, match="content is 0, but no classes have this name"):
        as_labels(0, names, "content")
    assert as_labels([-1, 1], ("-1", "0", "1"), "content").tolist() == [0, 2]
    assert as_labels(1, ("apple", "1"), "content").tolist() == [1]  # its position, too


@pytest.mark.parametrize("form", [int, str])
def test_numbers_with_zeros_in_front(form):
    assert as_labels(form(7), ("06", "07"), "content").tolist() == [1]
    assert as_labels(form(7), ("007", "07", "7"), "content").tolist() == [2]
    with pytest.raises(UserError, match="2 classes have this name"):
        as_labels(form(7), ("007", "07", "8"), "content")


@pytest.mark.parametrize("form", [int, str])
def test_a_number_is_a_position_where_names_are_no_numbers(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").touch()  # means nothing: the same command means the same everywhere
    assert as_labels(form(1), ("apple", "pear"), "content").tolist() == [1]
    assert as_labels(form(1), ("1", "pear"), "content").tolist() == [0]
    with pytest.raises(UserError, match="content is 2, but classes are numbered 0 to 1. Classes: apple, pear"):
        as_labels(form(2), ("apple", "pear"), "content")
    assert as_labels(str(tmp_path / "1"), ("apple", "pear"), "content") is None


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.int8])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, np.ndarray.tolist])
def test_integers_in_a_row_or_a_column_are_labels(dtype, shape, make):
    classes = make(np.array([2, 0, 1], dtype).reshape(shape))
    assert as_labels(classes, NAMES, "content").tolist() == [2, 0, 1]


ROWS = np.eye(3)[[2, 0, 1, 1]]


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint8, np.float16, np.float32, jnp.bfloat16])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_one_hot_rows_and_probabilities_are_refused(dtype, make):
    for rows in (ROWS, ROWS[:1], 0.9 * ROWS + 0.1 / 3):
        rows = make(rows.astype(dtype)) if rows.min() == 0 else rows
        with pytest.raises(UserError, match=r"content has a column for each class.*argmax"):
            as_labels(rows, NAMES, "content")


@pytest.mark.parametrize("shape", [(2,), (2, 1), ()])
@pytest.mark.parametrize("dtype", [bool, np.float32, complex, "M8[s]"])
def test_rows_and_columns_of_other_things_are_refused(shape, dtype):
    with pytest.raises(UserError, match=r"content is .*\[.*\], but classes are whole numbers or names"):
        as_labels(np.zeros(shape, dtype), NAMES, "content")


@pytest.mark.parametrize("rows", [ROWS.astype(int).tolist(), list(ROWS.astype(int)), [[1, 2]], [1, [2, 0]]])
def test_lists_in_lists_are_refused(rows):
    with pytest.raises(UserError, match=r"content\[\d\] holds [23] numbers, but must be one class.*argmax"):
        as_labels(rows, NAMES, "content")


DTYPES = st.sampled_from([np.int64, np.uint8, bool, np.float32])


@given(hnp.arrays(DTYPES, hnp.array_shapes(max_dims=4), elements=st.integers(0, 1)))
def test_any_array_is_labels_or_images_or_a_sentence(array):
    try:
        labels = as_labels(array, ("a", "b", "c"), "content")
    except UserError:
        return
    is_column = array.ndim == 1 or array.shape[1:] == (1,)
    assert (labels is not None) == (is_column and array.dtype.kind in "iu")
    if labels is not None:
        assert labels.tolist() == array.ravel().tolist()
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that images are stretched
                found = read_images(array, (8, 8, 1))
        except UserError:
            return
        assert not is_column
        assert len(found)
