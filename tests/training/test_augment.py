import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoae_jax.training.augment import SWAP_NOISE, augment_swaps, mix_in_views, shift_each


def test_shifts_are_as_far_as_asked_for():
    images = np.zeros((200, 8, 8, 1), np.float32)
    images[:, 4, 4] = 1
    images[:, 0] = 2

    def places(step):
        hyper = {"seed": np.uint32(0), "step": np.int32(step)}
        shifted = np.asarray(jax.jit(lambda h: shift_each(jnp.asarray(images), 1, h, None))(hyper))
        assert (shifted[:, 0] == 2).mean() == pytest.approx(2 / 3, abs=0.1)  # the border is repeated where it leaves
        return [tuple(place) for place in np.argwhere(shifted[..., 0] == 1)[:, 1:]]

    assert set(places(0)) == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
    assert places(0) != places(1)


def test_swaps_get_noise_and_are_shifted():
    ramp = jnp.linspace(0, 1, 20)
    images = jnp.tile((ramp[:, None] + 2 * ramp[None])[None, :, :, None], (64, 1, 1, 3))
    augment = jax.jit(lambda step, seed: augment_swaps(images, {"seed": seed, "step": step}, None))
    plain, seen = images[0, ..., 0], [np.asarray(augment(jnp.int32(i), jnp.uint32(0))) for i in range(60)]
    every = [(rows, columns) for rows in range(-3, 4) for columns in range(-3, 4)]
    means = [s.mean((0, 3)) for s in seen]  # there the noise averages out
    shifted = {shift: np.roll(plain, shift, (0, 1)) for shift in every}
    shifts = [min(every, key=lambda s, m=m: np.abs(shifted[s] - m).sum()) for m in means]
    assert all({shift[axis] for shift in shifts} == {-2, -1, 0, 1, 2} for axis in (0, 1))
    noise = [s - np.roll(images, shift, (1, 2)) for s, shift in zip(seen[:2], shifts, strict=False)]
    assert noise[0].std() == pytest.approx(SWAP_NOISE, rel=0.02)
    assert abs(noise[0].mean()) < 0.005
    assert not np.allclose(noise[0][0], noise[0][1])
    assert not np.allclose(noise[0], noise[1])
    assert not np.allclose(augment(jnp.int32(0), jnp.uint32(1)), seen[0])  # another seed


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
