import numpy as np
import pytest

from infoae_jax.images.handwriting import centre_strokes
from infoae_jax.images.read import read_drawings
from tests.drawings import digit, pen_drawing

GREY, RGB = (28, 28, 1), (32, 32, 3)


def test_drawing_becomes_bright_on_black_of_mnists_size_and_centred():
    found = read_drawings(pen_drawing(), GREY)
    assert found.shape == (1, *GREY)
    ink = found[0, ..., 0].astype(float)
    rows, columns = np.flatnonzero(ink.max(1) > 60), np.flatnonzero(ink.max(0) > 60)
    assert np.ptp(rows) + 1 == 20  # MNIST's digits fill 20 pixels of 28
    assert np.ptp(columns) + 1 == pytest.approx(10, abs=1)  # proportions kept
    centre = [float(ink.sum(1 - axis) @ np.arange(28) / ink.sum()) for axis in (0, 1)]
    np.testing.assert_allclose(centre, 14, atol=0.6)  # as the means of MNIST's own digits are
    assert ink.max() == 255  # a thin stroke is not a faint one
    assert np.median(ink) == 0


def test_drawing_does_not_depend_on_where_it_is_nor_on_its_polarity():
    here, there = read_drawings([pen_drawing(), pen_drawing(500, 300, 200, 150)], GREY).astype(int)
    assert abs(here - there).mean() < 12  # scaled by other factors
    negative = read_drawings(255 - pen_drawing(), GREY).astype(int)
    assert abs(here - negative[0]).mean() < 2
    np.testing.assert_array_equal(read_drawings(pen_drawing(), RGB, ground=1.0)[0, :, :, 0].max(), 255)
    assert np.median(read_drawings(pen_drawing(), RGB, ground=1.0)) == 255


def test_drawings_become_like_mnists_digits():
    image = centre_strokes(np.asarray(digit()))
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    mass = image / image.sum()
    for axis in (0, 1):
        assert abs((mass.sum(axis) * np.arange(28)).sum() - 14) <= 0.51
    # Neither place, size nor colour of the drawing matters.
    for other in (
        digit((400, 500), (200, 250, 300, 450)),
        digit((560, 560), (120, 80, 320, 480), 40),
        digit(ink=20, ground=230),
    ):
        assert np.abs(centre_strokes(np.asarray(other)).astype(float) - image).mean() < 3
    assert centre_strokes(np.full((50, 50), 200, np.uint8)) is None
    assert centre_strokes(np.asarray(digit(box=(5, 5, 8, 8), width=1))) is not None  # a dot is something
