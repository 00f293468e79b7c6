import jax.numpy as jnp
import numpy as np
import optax
import pytest

from infoae_jax.training.optimizer import chroma_error, cross_entropy, scheduled_rate, update


def test_a_step_of_adam_is_the_rate_times_the_sign_at_first():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    gradient = {"a": jnp.array([5.0, -0.1]), "b": jnp.array(0.0)}
    adam = optax.adam(jnp.float32(0.25))
    moved, state = update(adam, gradient, adam.init(params), params)
    np.testing.assert_allclose(moved["a"], [0.75, 2.25], rtol=1e-5)
    assert float(moved["b"]) == 3
    assert int(state[0].count) == 1


def learning_rates(schedule, steps):
    scalars = [{"learning_rate": 0.01, "progress": step / steps, "total_steps": steps} for step in range(steps)]
    return [float(scheduled_rate(schedule, hyper)) for hyper in scalars]


def test_learning_rate_decays_to_zero_or_stays():
    cosine = 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(learning_rates("cosine", 4), cosine, rtol=1e-6)
    np.testing.assert_allclose(learning_rates("constant", 4), 0.01, rtol=1e-6)


def test_learning_rate_rises_over_a_tenth_of_the_training():
    cosine = 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(learning_rates("warmup_cosine", 20), [0.5 * cosine[0], *cosine[1:]], rtol=1e-5)


def test_cross_entropy_and_accuracy_are_means_over_the_rows():
    logits = jnp.log(jnp.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]))
    loss, accuracy = cross_entropy(logits, jnp.array([0, 0, 1], jnp.int32))
    assert float(loss) == pytest.approx(-np.mean(np.log([0.7, 0.4, 0.1])), rel=1e-5)
    assert float(accuracy) == pytest.approx(1 / 3)


def test_chroma_error_is_blind_to_lightness():
    rng = np.random.default_rng(0)
    colour, grey = (jnp.asarray(rng.random((2, 4, 4, channels), np.float32)) for channels in (3, 1))
    assert float(chroma_error(grey + 0.5, grey)) == 0
    assert float(chroma_error(colour + 0.5, colour)) == pytest.approx(0, abs=1e-12)
    redder = colour + jnp.array([[[[0.3, 0, 0]]]])  # off by 0.2, -0.1 and -0.1 from the mean of its channels
    assert float(chroma_error(redder, colour)) == pytest.approx((0.2**2 + 2 * 0.1**2) / 3, rel=1e-5)
