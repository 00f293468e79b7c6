import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import infoae_jax
from infoae_jax.errors import UserError
from infoae_jax.images.pixels import to_float
from infoae_jax.models import autoencoder

LABELS = np.array([1, 2, 3], np.int32)


@pytest.fixture(autouse=True)
def quickly(one_device):
    """The tests of `devices.batching` have several devices."""


@pytest.fixture(scope="module")
def model(untrained):
    first = jax.local_devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: first)
        return infoae_jax.load(untrained)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def apply(model):
    """The model's methods, without batches and devices."""
    compiled = jax.jit(model.module.apply, static_argnames="method")
    return lambda *rows, method: np.asarray(compiled(model.variables, *rows, method=method))


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transfer_is_the_models_clipped(model, images, apply):
    found = model.transfer(images, LABELS)
    close(found.images, np.clip(apply(images, LABELS, method="transfer"), 0, 1))
    assert found.images.dtype == np.float32
    assert found.images.min() == 0  # something was clipped
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.confidence is None


def test_content_by_number_name_or_image(model, images):
    expected = model.transfer(images, LABELS).images
    for content in (
        [1, 2, 3],
        LABELS[:, None],
        jnp.array(LABELS)[:, None],
        np.array(["1", "2", "3"]),
        jnp.array(LABELS),
        [np.int8(1), "2", 3],
    ):
        np.testing.assert_array_equal(model.transfer(images, content).images, expected)
    np.testing.assert_array_equal(model.transfer(images, "3").images, model.transfer(images, [3, 3, 3]).images)
    read = model.predict(images[::-1])
    found = model.transfer(images, images[::-1])
    np.testing.assert_array_equal(found.labels, read.labels)
    np.testing.assert_array_equal(found.confidence, read.confidence)
    np.testing.assert_array_equal(found.images, model.transfer(images, read.labels).images)


def test_one_goes_with_many(model, images):
    grid = model.grid(images, LABELS)
    close(model.transfer(images[0], LABELS).images, grid[0])
    close(model.transfer(images, 3).images, grid[:, 2])
    found = model.transfer(images, images[0])
    assert found.images.shape == (3, 32, 32, 3)
    assert found.confidence.shape == found.labels.shape == (3,)
    with pytest.raises(UserError, match="3 style images do not go with 2 contents"):
        model.transfer(images, [1, 2])
    with pytest.raises(UserError, match="2 style images do not go with 3 contents"):
        model.transfer(images[:2], LABELS)


def test_grid_is_every_style_with_every_class(model, images, apply):
    grid = model.grid(images)
    assert grid.shape == (3, 10, 32, 32, 3)
    for row in range(3):
        expected = apply(np.repeat(images[row : row + 1], 10, 0), np.arange(10), method="transfer")
        close(grid[row], np.clip(expected, 0, 1))


def test_known_classes_of_style_images_are_used(model, images, apply):
    read = model.predict(images).labels
    other = ((read + 1) % 10).astype(np.int32)
    close(model.encode(images, other), apply(images, other, method="encode"))
    close(model.encode(images), apply(images, read, method="encode"))
    assert abs(model.encode(images) - model.encode(images, other)).max() > 1e-4
    expected = model.decode(model.encode(images, other), LABELS)
    np.testing.assert_array_equal(model.transfer(images, LABELS, style_labels=other).images, expected)


def test_confidence_is_the_classifiers_probability(model, images, apply):
    odds = np.asarray(jax.nn.softmax(apply(images, method="classify"), axis=1))
    read = model.predict(images)
    np.testing.assert_array_equal(read.labels, odds.argmax(1))
    close(read.confidence, odds.max(1))


def test_interpolation_goes_from_one_style_to_the_other(model, images):
    way = model.interpolate(images[0], images[1], "4", steps=5)
    ends = model.transfer(images[:2], 4).images
    assert way.shape == (5, 32, 32, 3)
    close(way[[0, -1]], ends)
    z = model.encode(images[:2])
    latents = [z[0] + share * (z[1] - z[0]) for share in (0.25, 0.5, 0.75)]
    close(way[1:4], model.decode(np.stack(latents), 4))


BAD = {
    "no such class": (lambda m, x: m.transfer(x, 10), "content is 10, but classes are numbered 0 to 9"),
    "a negative one": (lambda m, x: m.transfer(x, -1), "content is -1"),
    "no such name": (lambda m, x: m.transfer(x, "ten"), "'ten', which is neither a class nor a file.* 0, 1"),
    "classes and images": (lambda m, x: m.transfer(x, [1, x[0]]), "both classes and images"),
    "one in a list": (lambda m, x: m.transfer(x, [1, 2, 11]), r"content\[2\] is 11"),
    "truth": (lambda m, x: m.transfer(x, True), "content is True"),
    "a class as style": (lambda m, x: m.transfer(7, 7), r"style_images is 7 \(int\)"),
    "latents of another length": (lambda m, x: m.decode(np.zeros((1, 3)), 1), r"\[1, 3\], but must be \[N, 32\]"),
    "no latents": (lambda m, x: m.decode(np.zeros((0, 32)), 1), r"\[0, 32\], but must be \[N, 32\], with N at least 1"),
    "not a number": (
        lambda m, x: m.decode(np.full((1, 32), np.nan), 1),
        r"z holds 32 value\(s\) that are not a number",
    ),
    "infinite": (lambda m, x: m.decode(np.eye(32) * np.float32(3e38) * 2, 1), r"z holds .* not a number, infinite"),
    "beyond floats": (lambda m, x: m.decode(np.full((1, 32), 1e300), 1), r"z holds 32 value\(s\).*beyond 1e\+30"),
    "one-hot": (lambda m, x: m.transfer(x, np.eye(10, dtype=np.uint8)[:3]), "content has a column for each class"),
    "one-hot style": (lambda m, x: m.encode(x, np.eye(10)[:3]), "style_labels has a column for each class.*argmax"),
    "one-hot labels": (lambda m, x: m.decode(np.zeros((3, 32)), np.eye(10)[:3] > 0), "labels has a column"),
    "a column of floats": (
        lambda m, x: m.transfer(x, LABELS[:, None] / 4),
        r"content is float64\[3, 1\], but classes are whole",
    ),
    "none to sample": (lambda m, x: m.sample(0), "count is 0, but must be at least 1"),
    "fewer than none": (lambda m, x: m.sample(-2), "count is -2"),
    "too few labels": (lambda m, x: m.decode(np.zeros((3, 32)), [1, 2]), "each of the 3 latents"),
    "too few style labels": (lambda m, x: m.encode(x, [1, 2]), "each of the 3 style images"),
    "two to start from": (lambda m, x: m.interpolate(x[:2], x[2], 1), "style_a holds 2 items"),
    "one step": (lambda m, x: m.interpolate(x[0], x[1], 1, steps=1), "steps is 1, but must be at least 2"),
    "more neighbours than there are": (lambda m, x: m.nearest(x, x, k=4), "k is 4, but must be from 1 to 3"),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_what_cannot_work_is_named(model, images, call, says):
    with pytest.raises(UserError, match=says):
        call(model, images)


def test_each_size_of_batch_is_traced_once(untrained, images, monkeypatch):
    traced, unit_interval = [], to_float

    def count(x):
        if isinstance(x, jax.core.Tracer):
            traced.append(len(x))
        return unit_interval(x)

    monkeypatch.setattr(autoencoder, "to_float", count)
    jax.clear_caches()  # other models of the same shape share their programs
    model = infoae_jax.load(untrained)
    traced.clear()  # `load` asks for shapes
    for n in (1, 2, 3, 1, 3):
        model.transfer(images[:n], LABELS[:n])
    assert traced == [1, 1, 2, 2, 4, 4]  # `encode` classifies as well
    model.grid(images)
    model.interpolate(images[0], images[1], 5, steps=32)
    assert len(traced) == 6  # only the decoder has met other sizes


def test_model_works_in_jit_vmap_and_grad_of_ones_own(model, images, apply):
    def swap(image, label):
        return model.module.apply(model.variables, image[None], label[None], method="transfer")[0]

    one_by_one = jax.jit(jax.vmap(swap))(images / np.float32(255), LABELS)
    close(one_by_one, apply(images, LABELS, method="transfer"))
    z = jnp.asarray(model.encode(images))
    slope = jax.jit(
        jax.grad(lambda z: model.module.apply(model.variables, z, LABELS, method="decode").astype(float).mean())
    )(z)
    step = 1e-2 * slope / jnp.linalg.norm(slope)
    decode = [apply(z + sign * step, LABELS, method="decode").mean(dtype=np.float64) for sign in (1, -1)]
    assert (decode[0] - decode[1]) / 2 == pytest.approx(float(jnp.vdot(slope, step)), rel=0.05)


def test_a_negative_of_what_the_model_knows_is_warned_about(untrained):
    model = infoae_jax.load(untrained)
    model.__dict__["background"] = 0.02  # like that of a model of white digits on black
    paper = np.full((2, 32, 32, 3), 255, np.uint8)
    paper[:, 10:20, 15:17] = 0
    with pytest.warns(
        UserWarning, match=r"2 of 2 style_images have a border of brightness 1\.00.*decoded images one of 0\.02.*invert"
    ):
        model.encode(paper)
    model.encode(255 - paper)  # no warning
    with pytest.warns(UserWarning, match="1 of 3"):
        model.encode([255 - paper[0], 255 - paper[0], paper[0]])


def test_background_is_the_brightness_of_decoded_borders(untrained, monkeypatch):
    assert infoae_jax.load(untrained).background is None  # it decodes nothing yet
    decoded = np.full((10, 32, 32, 3), 0.25, np.float32)
    decoded[:, 8:24, 8:24] = 1
    monkeypatch.setattr(infoae_jax.Model, "_generate", lambda *_: decoded)
    assert infoae_jax.load(untrained).background == 0.25


def test_nearest_finds_itself_first(model, images):
    near = model.nearest(images[1], among=images, k=2)
    assert near.rows.shape == near.distances.shape == (1, 2)
    assert near.rows[0, 0] == 1
    assert near.distances[0, 0] == pytest.approx(0, abs=1e-3)
    assert near.distances[0, 1] > 0.01


def test_sample_is_seeded_and_decodable(model):
    one, two, other = model.sample(7, seed=1), model.sample(7, seed=1), model.sample(7, seed=2)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert model.decode(one, 3).shape == (7, 32, 32, 3)


def test_numbers_are_names_where_names_are_other_numbers(model, images):
    info = dataclasses.replace(model.info, class_names=tuple(str(10 * i) for i in range(10)))
    other = infoae_jax.Model(model.module, model.variables, info, None)
    expected = model.transfer(images, [1, 2, 3]).images
    for content in ([10, 20, 30], ("10", "20", "30"), np.array([10, 20, 30])):
        np.testing.assert_array_equal(other.transfer(images, content).images, expected)
    np.testing.assert_array_equal(other.decode(model.encode(images), [10, 20, 30]), expected)
    np.testing.assert_array_equal(other.grid(images), model.grid(images))
    np.testing.assert_array_equal(other.grid(images, [90], 10), model.grid(images, [9], 1))
    np.testing.assert_array_equal(
        other.interpolate(images[0], images[1], 40), model.interpolate(images[0], images[1], 4)
    )
    again = np.array(other.classes)[other.predict(images).labels]
    np.testing.assert_array_equal(other.transfer(images, again).labels, model.predict(images).labels)
    with pytest.raises(UserError, match="content is 1, but no classes have this name. Classes: 0, 10, 20"):
        other.transfer(images, 1)


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_and_pickled(untrained, images, again):
    model = infoae_jax.load(untrained)
    first, found = model.transfer(images, LABELS).images, again(model)
    np.testing.assert_array_equal(found.transfer(images, LABELS).images, first)
    assert (found.info, found.step, found.classes) == (model.info, 8, model.classes)
    np.testing.assert_array_equal(found.sample(3), model.sample(3))
    assert isinstance(model.__reduce__()[1][3], infoae_jax.StyleBank)  # once it is known, no run folder is needed
