import io

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from infoae_jax.images.grid import arrange, encode_png, encode_swaps, one_of_each, sheet, swap_grid


def test_a_grid_of_swaps_sets_the_first_column_apart():
    sources = np.full((2, 4, 6, 1), 10, np.uint8)
    swaps = np.zeros((2, 3, 4, 6, 1), np.float32)
    for row in range(2):
        for column in range(3):
            swaps[row, column] = (row * 3 + column) / 10
    canvas = swap_grid(sources, swaps)
    assert canvas.shape == (2 * 6 - 2, 4 * 8 - 2 + 8, 1)
    np.testing.assert_array_equal(canvas[:4, :6], 10)  # real image, first column
    for row in range(2):
        for column in range(3):
            top, left = row * 6, (column + 1) * 8 + 8
            np.testing.assert_array_equal(canvas[top : top + 4, left : left + 6], round((row * 3 + column) * 25.5))
    np.testing.assert_array_equal(canvas[4:6], 255)


def test_images_fill_the_rows_of_a_sheet_in_order():
    images = np.arange(1, 8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    canvas = sheet(arrange(images, 4))
    assert canvas.shape == (4, 12, 1)
    np.testing.assert_array_equal(canvas[::2, ::3, 0], [[1, 2, 3, 4], [5, 6, 7, 0]])
    assert sheet(arrange(images[:2], 4)).shape == (2, 6, 1)  # no wider than the images need


def test_one_of_each():
    np.testing.assert_array_equal(one_of_each(np.array([3, 3, 1, 0, 1])), [3, 2, 0])
    assert len(one_of_each(np.arange(50))) == 10


def test_png_keeps_the_pixels():
    canvas = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(encode_png(canvas, scale=3))))
    np.testing.assert_array_equal(decoded[::3, ::3], canvas)
    assert Image.open(io.BytesIO(encode_png(canvas[..., :1]))).mode == "L"


def named(names, side=28, scale=2):
    """The space for names above each column, and the grid below it."""
    sources, swaps = np.full((1, side, side, 1), 9, np.uint8), np.full((1, len(names), side, side, 1), 99, np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(encode_swaps(sources, swaps, names, scale))))
    top, column = len(pixels) - scale * side, scale * (side + 2)
    np.testing.assert_array_equal(pixels[top::scale, ::scale], swap_grid(sources, swaps)[..., 0])
    first = column + scale * 8
    assert (pixels[:top, :first] == 255).all()  # none above the style images
    return [pixels[:top, first + i * column :][:, :column] for i in range(len(names))]


def width(header):
    return int((header < 255).any(axis=0).sum())


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_names_stand_in_the_middle_above_their_columns(scale):
    for header in named(["0", "four", "Äß"], scale=scale):
        inked = np.flatnonzero((header < 255).any(axis=0))
        assert abs((inked[0] + inked[-1]) / 2 - scale * 28 / 2) <= 2 * scale


def test_names_are_cut_where_the_column_ends():
    short, long, longer, _ = named(["jeans", "a long name", "a long name indeed", "0"])
    np.testing.assert_array_equal(long, longer)
    assert not np.array_equal(short, long)


def test_names_that_cannot_be_shown_are_left_out():
    shown, foreign = named(["0", "\u65e5\u672c"])  # no letters of the font
    assert width(shown)
    assert not width(foreign)
    (header,) = named(["0123"], side=4, scale=1)  # narrower than a letter
    assert header.size == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=30), min_size=1, max_size=4))
def test_any_name_stays_within_its_column(names):
    for header in named(names):
        assert (header[:, 2 * 28 :] == 255).all()
        assert (header[-2:] == 255).all()
