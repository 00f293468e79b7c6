import numpy as np
import pytest

from infoae_jax.evaluation.attributes import colours, has_strokes, strokes


def bar(width=4.0, slant=0.0, height=16.0, side=28, value=255, x=14.0, y=14.0):
    """A bar `width` wide (along the rows) and `height` high, its axis `slant` degrees to the right of the vertical."""
    fine = 16
    rows, columns = (np.mgrid[: side * fine, : side * fine] + 0.5) / fine
    middle = x - np.tan(np.deg2rad(slant)) * (rows - y)
    inside = (np.abs(columns - middle) < width / 2) & (np.abs(rows - y) < height / 2)
    shares = inside.reshape(side, fine, side, fine).mean((1, 3))
    return np.rint(shares * value).astype(np.uint8)[..., None]


@pytest.mark.parametrize("slant", [-30, -10, 0, 10, 30])
@pytest.mark.parametrize("width", [2.0, 4.0])
def test_bar_of_known_shape_is_measured(width, slant):
    found = {name: value[0] for name, value in strokes(bar(width, slant)[None]).items()}
    assert found["slant"] == pytest.approx(slant, abs=1)
    assert found["thickness"] == pytest.approx(width * np.cos(np.deg2rad(slant)), abs=0.5)
    assert found["area"] == pytest.approx(width * 16, rel=0.06)
    assert found["height"] == pytest.approx(0.96 * 16, abs=0.4)  # 2 % of the mass are left out at both ends
    # The pixels of a slanted bar are a staircase, which the shear does not make even.
    assert found["width"] == pytest.approx(0.96 * width, abs=1.5 if slant else 0.6)
    whole = 16 / np.cos(np.deg2rad(slant))
    assert whole - 1.3 * width - 0.5 <= found["length"] <= 1.13 * whole  # it ends half a width before the stroke
    assert found["intensity"] == pytest.approx(1, abs=0.1)


def test_attributes_do_not_depend_on_the_place_or_on_the_neighbours_in_the_array():
    many = np.stack([bar(x=10, y=12), bar(slant=20), np.zeros((28, 28, 1), np.uint8), bar(x=10, y=12)])
    together = strokes(many)
    alone = strokes(bar(x=17, y=15)[None])
    for name, values in together.items():
        assert values[0] == values[3]
        assert values[0] == pytest.approx(alone[name][0], abs=1e-4), name
        assert values[1] == pytest.approx(strokes(many[1:2])[name][0], rel=1e-12), name
        assert np.isnan(values[2]), name  # no stroke


def test_intensity_is_that_of_the_stroke_and_shape_does_not_depend_on_it():
    values = strokes(np.stack([bar(), bar(value=100)]))
    assert values["intensity"][1] == pytest.approx(values["intensity"][0] * 100 / 255, abs=0.01)
    assert values["thickness"][1] == pytest.approx(values["thickness"][0], abs=0.1)
    assert values["area"][1] == pytest.approx(values["area"][0], rel=0.02)


def test_strokes_are_looked_for_on_dark_grey_images_only():
    assert has_strokes(bar()[None])
    assert not has_strokes(255 - bar()[None])
    assert not has_strokes(np.zeros((1, 8, 8, 3), np.uint8))


def test_two_colours_are_told_apart_and_named_by_the_border():
    image = np.zeros((2, 32, 32, 3), np.uint8)
    image[0, 8:24, 12:20] = 255  # white on black
    image[1] = (255, 0, 0)
    image[1, 4:28, 4:28] = (0, 0, 255)  # blue, and more of it, on a red border
    found = colours(image)
    assert found["background_l"][0] == pytest.approx(0, abs=0.1)
    assert found["foreground_l"][0] == pytest.approx(100, abs=0.1)
    assert found["contrast"][0] == pytest.approx(100, abs=0.2)
    # CIELAB of the sRGB primaries under D65.
    assert [found[f"background_{c}"][1] for c in "lab"] == pytest.approx([53.24, 80.09, 67.20], abs=0.1)
    assert [found[f"foreground_{c}"][1] for c in "lab"] == pytest.approx([32.30, 79.19, -107.86], abs=0.1)


def test_image_of_one_colour_has_it_as_background():
    found = colours(np.full((1, 16, 16, 3), 128, np.uint8))
    assert found["contrast"][0] == 0
    assert found["background_l"][0] == pytest.approx(53.6, abs=0.2)
