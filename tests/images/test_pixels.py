import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.images.pixels import border, pixel_statistics, to_float, to_uint8


def test_pixels_are_clipped_and_rounded():
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 0.5, 2.0])), [0, 128, 255])


@pytest.mark.parametrize("library", [np, jnp])
def test_bytes_become_floats_and_floats_stay(library):
    found = to_float(library.asarray([0, 51, 255], np.uint8))
    assert type(found) is type(library.zeros(1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0.2, 1], rtol=1e-6)
    for dtype in (np.float32, np.float16, jnp.bfloat16):
        floats = library.asarray([0.5, 2.0], dtype)
        assert to_float(floats) is floats


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool])
def test_types_of_unknown_range_are_refused(dtype):
    with pytest.raises(TypeError, match="but must be uint8"):
        to_float(np.zeros((1, 8, 8, 1), dtype))


def test_border():
    images = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4, 1)
    found = border(images)
    assert found.shape == (2, 10, 1)
    np.testing.assert_array_equal(found[1, :, 0] - 12, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11])


def test_images_that_are_all_alike_are_not_divided_by_zero():
    found = pixel_statistics(np.full((4, 8, 8, 1), 51, np.uint8))
    assert found["pixel_deviation"] == 1
    assert found["pixel_mean"].item() == pytest.approx(0.2)
