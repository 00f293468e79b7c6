import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.training.augment import augment_swaps, mix_in_views, shift_images


def test_shifts_are_as_far_as_asked_for():
    image = np.zeros((2, 8, 8, 1), np.float32)
    image[:, 4, 4] = 1
    places, shift = set(), jax.jit(lambda key: shift_images(jnp.asarray(image), 1, key))
    for i in range(100):
        shifted = np.asarray(shift(jax.random.key(i)))
        assert np.array_equal(shifted[0], shifted[1])
        places.add(tuple(np.argwhere(shifted[0, ..., 0])[0]))
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_swaps_get_noise_and_are_shifted():
    ramp = jnp.linspace(0, 1, 20)
    images = jnp.tile((ramp[:, None] + 2 * ramp[None])[None, :, :, None], (64, 1, 1, 3))
    augment = jax.jit(lambda noise, step: augment_swaps(images, noise, 0, step, None))
    assert np.array_equal(augment(0.0, jnp.int32(0)), images)
    plain, seen = images[0, ..., 0], [np.asarray(augment(0.25, jnp.int32(i))) for i in range(60)]
    every = [(rows, columns) for rows in range(-3, 4) for columns in range(-3, 4)]
    means = [s.mean((0, 3)) for s in seen]  # there the noise averages out
    shifted = {shift: np.roll(plain, shift, (0, 1)) for shift in every}
    shifts = [min(every, key=lambda s, m=m: np.abs(shifted[s] - m).sum()) for m in means]
    assert all({shift[axis] for shift in shifts} == {-2, -1, 0, 1, 2} for axis in (0, 1))
    noise = [s - np.roll(images, shift, (1, 2)) for s, shift in zip(seen[:2], shifts, strict=False)]
    assert noise[0].std() == pytest.approx(0.25, rel=0.02)
    assert abs(noise[0].mean()) < 0.005
    assert not np.allclose(noise[0][0], noise[0][1])
    assert not np.allclose(noise[0], noise[1])
    other = np.asarray(jax.jit(lambda step: augment_swaps(images, 0.25, 1, step, None))(jnp.int32(0)))
    assert not np.allclose(other, seen[0])  # another seed


def test_a_share_of_the_images_are_views():
    images = jnp.asarray(np.random.default_rng(0).random((400, 8, 8, 3)), jnp.float32)

    def mixed(share, step=0, seed=0):
        hyper = {"seed": np.uint32(seed), "step": np.int32(step)}
        return np.asarray(jax.jit(lambda h: mix_in_views(images, share, h, None))(hyper))

    def share(found):
        return (found != images).any((1, 2, 3)).mean()

    assert share(mixed(0.0)) == 0
    assert share(mixed(0.3)) == pytest.approx(0.3, abs=0.07)
    assert share(mixed(1.0)) == 1
    np.testing.assert_array_equal(mixed(0.3), mixed(0.3))
    for change in ({"step": 1}, {"seed": 1}):
        assert not np.array_equal(mixed(0.3, **change), mixed(0.3))
