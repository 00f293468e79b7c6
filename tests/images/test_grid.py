import io

import numpy as np
from PIL import Image

from infoae_jax.images.grid import arrange, encode_png, one_of_each, sheet, swap_grid


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
