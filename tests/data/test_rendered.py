import os
import time

import numpy as np
import pytest

from configs import rendered
from infoae_jax.data import rendered as rendered_module
from infoae_jax.data.rendered import Factors, generate, render
from infoae_jax.errors import UserError
from tests.data_config import config_of


def test_same_seed_same_images_other_seed_or_split_others():
    images, digits, factors = generate(50, 3, 0)
    again, digits_again, _ = generate(50, 3, 0)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(digits, digits_again)
    assert images.shape == (50, 32, 32, 3)
    assert images.dtype == np.uint8
    assert not np.array_equal(images, generate(50, 3, 1)[0])
    assert not np.array_equal(images, generate(50, 4, 0)[0])
    np.testing.assert_array_equal(render(factors, digits), images)


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(monkeypatch):
    images, digits, factors = generate(20, 0, 0)
    np.testing.assert_array_equal(render(factors[7:9], digits[7:9]), images[7:9])
    assert render(factors[:0], digits[:0]).shape == (0, 32, 32, 3)
    monkeypatch.setattr(rendered_module, "_CHUNK_SIZE", 8)
    np.testing.assert_array_equal(render(factors, digits), images)


def test_only_the_digit_changes_between_contents():
    """Where no glyph of either digit reaches, the pixels of 'style A, content B' are those of A, noise included."""
    _, _, factors = generate(200, 0, 0)
    ones, zeros = (render(factors, np.full(200, d)).astype(int) for d in (1, 0))
    changed = np.abs(ones - zeros).max(axis=3) > 0
    share = changed.mean(axis=(1, 2))
    assert (share > 0.02).all()  # the digit is really another one
    assert np.median(share) < 0.6
    corners = changed[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() < 0.05


def test_factors_do_what_they_say():
    _, _, factors = generate(1, 0, 0)
    base = {name: values.copy() for name, values in vars(factors).items()}
    base |= {"foreground": np.ones((1, 3), np.float32), "background": np.zeros((1, 3), np.float32)}
    for name in ("gradient", "angle", "shear", "shift", "noise"):
        base[name] = np.zeros_like(base[name])
    base |= {"left": np.array([-1]), "right": np.array([-1]), "height": np.array([20.0]), "blur": np.array([0.3])}

    def rendering(**changes):
        return render(Factors(**{**base, **changes}), np.array([8]))[0].astype(float)

    def centre(image):
        mass = image.sum(axis=2)
        y, x = np.mgrid[:32, :32]
        return (mass * x).sum() / mass.sum(), (mass * y).sum() / mass.sum()

    plain = rendering()
    rows = np.flatnonzero(plain.max(axis=(1, 2)) > 128)
    assert abs(rows[-1] - rows[0] + 1 - 20) <= 1  # height, in pixels
    moved = centre(rendering(shift=np.array([[3.0, -2.0]])))
    np.testing.assert_allclose(np.subtract(moved, centre(plain)), (3, -2), atol=0.1)
    np.testing.assert_allclose(rendering(foreground=np.array([[1.0, 0, 0]]))[..., 1:], 0)
    assert rendering(blur=np.array([1.5])).max() < plain.max()
    assert rendering(noise=np.array([0.05])).std() != plain.std()
    with_left = rendering(left=np.array([3]))
    assert with_left[:, :6].sum() > plain[:, :6].sum() + 1000
    np.testing.assert_array_equal(with_left[:, 16:], plain[:, 16:])
    np.testing.assert_allclose(rendering(angle=np.array([90.0])), np.rot90(plain), atol=40)  # counter-clockwise
    # A positive shear moves what is above the centre (negative y) to the right, as slant does in handwriting.
    sheared = rendering(shear=np.array([0.5]))
    assert (
        centre(np.pad(sheared[:12], [(0, 20), (0, 0), (0, 0)]))[0]
        > centre(np.pad(plain[:12], [(0, 20), (0, 0), (0, 0)]))[0]
    )


def test_all_fonts_have_ten_different_digits():
    atlas, spacings = rendered_module._glyphs()
    for font in atlas:
        flat = font.reshape(10, -1)
        distance = np.abs(flat[:, None] - flat[None]).mean(axis=2) + np.eye(10)
        assert distance.min() > 0.005
    assert (spacings > 0.3).all()


@pytest.mark.parametrize("digits", [[10], [-1], [1, 2], []])
def test_bad_digits(digits):
    with pytest.raises(UserError, match="one digit from 0 to 9"):
        render(generate(1, 0, 0)[2], np.array(digits, int))


@pytest.mark.slow
def test_the_default_size_is_rendered_in_seconds():
    begin = time.process_time()  # of all threads, whatever else the machine does
    generate(24_000, 0, 0)
    assert time.process_time() - begin < 60


def test_more_than_the_memory_holds_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    says = r"num_train and num_test are 256 and 64. Such images need 0\.0 GB of memory"
    with pytest.raises(UserError, match=says):
        rendered_module.rendered_source(config_of(rendered, tmp_path, "tiny"))
