import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mnist
from infoae_jax.config import parse
from infoae_jax.errors import UserError
from infoae_jax.models.autoencoder import POLE, build, fresh_variables, from_sphere, shorten, to_sphere, variable_shapes


def make_model(shape, num_classes=10, **overrides):
    values = mnist.get_config("tiny")
    values.model.update(overrides)
    return build(parse(values).model, shape, num_classes)


def make(shape=(28, 28, 1), num_classes=10, **overrides):
    model = make_model(shape, num_classes, **overrides)
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    labels = np.arange(6) % num_classes
    return model, fresh_variables(model, 0), images, labels


@pytest.mark.parametrize("decoder", ["dcec", "literal"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (12, 20, 3), (36, 64, 3), (48, 28, 1)])
def test_reconstructs_every_supported_image_size(shape, decoder):
    model = make_model(shape, decoder=decoder)
    images, labels = jnp.zeros((6, *shape), jnp.uint8), jnp.zeros(6, jnp.int32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images, labels)
    assert out["z"].shape == (6, 16)
    assert out["reconstruction"].shape == images.shape
    assert out["content_logits"].shape == out["adversary_logits"].shape == (6, 10)


@pytest.mark.parametrize("shape", [(30, 30, 1), (4, 4, 1), (32, 31, 3), (1024, 1024, 3)])
def test_unsupported_sizes_get_a_sentence(shape):
    with pytest.raises(UserError, match=f"{shape[0]}x{shape[1]}.*multiple of 4"):
        make_model(shape)


@pytest.mark.parametrize("couplings", [0, 2])
def test_fresh_variables_are_shaped_like_those_of_init_and_lie_on_the_host(couplings):
    model, variables, images, labels = make(couplings=couplings)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, labels)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(variables))


def test_the_papers_network():
    """Layer by layer as in DCEC: 28 -> 14 -> 7 -> 3 and back, with two fully connected layers on either side."""
    _, variables, _, _ = make(latent="unbounded", hidden=256, filters=(32, 64, 128), adversary_hidden=256)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    encoder, decoder, adversary = (shapes[n] for n in ("style_encoder", "image_decoder", "adversary"))
    assert [encoder[f"Conv_{i}"]["kernel"] for i in range(3)] == [(5, 5, 1, 32), (5, 5, 32, 64), (3, 3, 64, 128)]
    assert [encoder[name]["kernel"] for name in ("Dense_0", "out")] == [(1152, 256), (256, 16)]
    assert [decoder[f"Dense_{i}"]["kernel"] for i in range(2)] == [(26, 256), (256, 1152)]
    kernels = [decoder[name]["kernel"] for name in ("ConvTranspose_0", "ConvTranspose_1", "out")]
    assert kernels == [(3, 3, 128, 64), (5, 5, 64, 32), (5, 5, 32, 1)]
    assert [adversary[name]["kernel"] for name in ("Dense_0", "out")] == [(16, 256), (256, 10)]


def test_literal_decoder_has_the_papers_output_channels():
    _, variables, _, _ = make(decoder="literal", filters=(32, 64, 128))
    decoder = jax.tree.map(jnp.shape, variables["params"]["image_decoder"])
    assert [decoder[f"ConvTranspose_{i}"]["kernel"][-1] for i in range(3)] == [128, 64, 32]
    assert decoder["out"]["kernel"] == (3, 3, 32, 1)


def test_networks_see_and_give_standardised_pixels():
    model, variables, images, labels = make(shape=(8, 8, 3))
    mean, deviation = np.float32([0.7, 0.5, 0.2]).reshape(1, 1, 1, 3), np.float32(0.3)
    constants = variables["constants"] | {"pixel_mean": mean, "pixel_deviation": deviation}

    def give(variables, pixels):
        given = model.apply(variables, pixels, labels)
        return given["z"], given["content_logits"], given["reconstruction"]

    plain = give(variables, (images / np.float32(255) - mean) / deviation)
    z, logits, reconstruction = give({**variables, "constants": constants}, images)
    for found, expected in zip((z, logits, (reconstruction - mean) / deviation), plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_latent_in_the_ball_and_unbounded():
    lengths = {}
    for latent in ("ball", "unbounded"):
        model, variables, images, _ = make(latent=latent)
        lengths[latent] = np.linalg.norm(model.apply(variables, images, method="encode"), axis=1)
    free = lengths["unbounded"]
    assert np.ptp(free) > 1e-3
    np.testing.assert_allclose(lengths["ball"], free / np.sqrt(free**2 / 16 + 1), rtol=1e-5)


def test_latent_names_a_point_on_the_sphere():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(200, 17)), jnp.float32)
    z = from_sphere(points)
    assert z.shape == (200, 16)
    again = to_sphere(z)
    length = np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(again, 17**0.5 * points / length, atol=1e-4)
    np.testing.assert_allclose(from_sphere(again), z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(from_sphere(1000 * points), z, rtol=1e-4)  # whatever the length
    on_equator = points.at[:, 0].set(0)
    np.testing.assert_allclose(np.linalg.norm(from_sphere(on_equator), axis=1), 4, rtol=1e-5)


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 3e-3])
def test_projection_of_the_sphere_is_exact_near_its_pole(angle):
    rest = np.random.default_rng(0).normal(size=(50, 16))
    rest *= np.sin(angle) / np.linalg.norm(rest, axis=1, keepdims=True)
    points = np.concatenate([np.full((50, 1), -np.cos(angle)), rest], axis=1)
    expected = 4 * rest / (1 - np.cos(angle) + POLE)
    np.testing.assert_allclose(from_sphere(jnp.asarray(5 * points, jnp.float32)), expected, rtol=1e-4)


def test_projection_of_the_sphere_is_finite_everywhere():
    pole, centre = -jnp.eye(1, 17), jnp.zeros((1, 17))
    for value in (pole, 1e6 * pole, centre, pole + 1e-4):
        z, gradient = jax.value_and_grad(lambda p: to_sphere(from_sphere(p)).sum())(value)
        assert np.isfinite(z)
        assert np.isfinite(gradient).all()
    np.testing.assert_allclose(to_sphere(jnp.full((1, 16), 1e30))[0, 0], -(17**0.5), rtol=1e-5)


def test_decoder_and_adversary_see_the_point_on_the_sphere():
    model, variables, images, labels = make(latent="sphere")
    z = model.apply(variables, images, method="encode")
    assert z.shape[1] == 16
    first = {name: variables["params"][name]["Dense_0"]["kernel"] for name in ("image_decoder", "adversary")}
    assert {name: kernel.shape[0] for name, kernel in first.items()} == {"image_decoder": 17 + 10, "adversary": 17}
    far = 1e4 * z  # both are near the pole, but not the same
    for method, rest in (("decode_raw", (labels,)), ("adversary_logits", (0.0,))):
        near, other = (model.apply(variables, value, *rest, method=method) for value in (far, 2 * far))
        np.testing.assert_allclose(near, other, atol=1e-3)


def test_alignment_of_the_sphere_is_undone_before_the_decoder():
    model, variables, images, labels = make(latent="sphere", couplings=2)
    alignment = variables["constants"]["alignment"] | {"mean": 0.3 * jnp.ones((10, 16))}
    variables = variables | {"constants": variables["constants"] | {"alignment": alignment}}
    u = model.apply(variables, images, labels, method="encode")
    z = model.apply(variables, images, method="encode_raw")
    assert np.abs(u - z).max() > 0.2
    decoded = model.apply(variables, u, labels, method="decode")
    np.testing.assert_allclose(decoded, model.apply(variables, z, labels, method="decode_raw"), atol=1e-4)
    assert np.isfinite(model.apply(variables, 1e6 * u, labels, method="decode")).all()


def test_alignment_of_the_ball_works_before_it_is_bounded_and_is_undone_before_the_decoder():
    model, variables, images, labels = make(latent="ball", couplings=2)
    alignment = variables["constants"]["alignment"] | {"mean": 0.3 * jnp.ones((10, 16))}
    variables = variables | {"constants": variables["constants"] | {"alignment": alignment}}
    images = 5 * (images / np.float32(255) - 0.5)  # far from the centre, where the ball bends
    u = model.apply(variables, images, labels, method="encode")
    assert np.linalg.norm(u + 0.3, axis=1).max() > 4
    decoded = model.apply(variables, u, labels, method="decode")
    z = model.apply(variables, images, method="encode_raw")
    assert np.linalg.norm(z, axis=1).max() < 4
    np.testing.assert_allclose(decoded, model.apply(variables, z, labels, method="decode_raw"), atol=1e-4)


def test_codes_that_the_couplings_make_very_long_are_shortened():
    model, variables, images, labels = make(latent="sphere", couplings=2, reference_couplings=0)
    raw = np.linalg.norm(model.apply(variables, images, method="encode_raw"), axis=1)
    assert raw.max() < 8  # the root of 16 dimensions, plus 4

    def encode(factor, shift, model=model):
        alignment = variables["constants"]["alignment"]
        alignment = alignment | {"matrix": factor * alignment["matrix"]}
        layers = variables["params"]["alignment"]["couplings"]["layers"]
        bias = np.array(layers["change"]["bias"])
        bias[:, 8:] = shift  # the log scales stay 0
        layers = layers | {"change": layers["change"] | {"bias": bias}}
        changed = {
            "params": variables["params"] | {"alignment": {"couplings": {"layers": layers}}},
            "constants": variables["constants"] | {"alignment": alignment},
        }
        u = model.apply(changed, images, labels, method="encode")
        return np.asarray(u), np.linalg.norm(u, axis=1)

    np.testing.assert_allclose(encode(1, 0.0)[1], raw, rtol=1e-5)
    np.testing.assert_allclose(encode(1, 1e3)[1], 8, rtol=1e-5)
    np.testing.assert_allclose(encode(1, 1e3)[0], encode(1, 1e4)[0], atol=0.1)  # the direction stays
    np.testing.assert_allclose(encode(100, 0.0)[1], 100 * raw, rtol=1e-5)  # as long before the couplings
    np.testing.assert_allclose(encode(100, 1e5)[1], 100 * raw, rtol=1e-5)
    learned = model.clone(reference_couplings=2)  # whose codes may be long
    assert encode(1, 1e3, learned)[1].min() > 1e3
    gradient = jax.grad(lambda u: shorten(u, u).sum())(jnp.zeros((1, 16)))
    np.testing.assert_allclose(gradient, 1)


def test_bytes_and_floats_are_the_same_images():
    model, variables, images, labels = make()
    for method, args in (("encode", ()), ("classify", ()), ("transfer", (labels,))):
        as_bytes = model.apply(variables, images, *args, method=method)
        as_floats = model.apply(variables, images.astype(np.float32) / 255, *args, method=method)
        np.testing.assert_allclose(as_bytes, as_floats, atol=1e-6)


def test_transfer_is_encode_then_decode_and_content_matters():
    model, variables, images, labels = make()
    z = model.apply(variables, images, method="encode")
    expected = model.apply(variables, z, labels, method="decode")
    np.testing.assert_array_equal(model.apply(variables, images, labels, method="transfer"), expected)
    other = model.apply(variables, images, (labels + 1) % 10, method="transfer")
    assert np.abs(other - expected).max() > 1e-3


def test_the_adversary_sees_a_reversed_gradient_of_the_right_size():
    model, variables, images, _ = make()
    z = model.apply(variables, images, method="encode")

    def gradient(lam):
        return jax.grad(lambda z: model.apply(variables, z, lam, method="adversary_logits").sum())(z)

    plain = gradient(-1.0)  # -(-1): not reversed
    np.testing.assert_allclose(gradient(0.25), -0.25 * plain, rtol=1e-5)
    assert np.abs(plain).max() > 0
    np.testing.assert_array_equal(gradient(0.0), np.zeros_like(z))


def test_bfloat16_computes_so_but_keeps_and_gives_float32():
    model, variables, images, labels = make()
    half = model.clone(dtype="bfloat16")
    assert {str(x.dtype) for x in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0), images, labels))} == {
        "float32"
    }
    full, low = (jax.jit(m.apply)(variables, images, labels) for m in (model, half))
    for name, value in low.items():
        assert value.dtype == jnp.float32
        assert not np.array_equal(value, full[name])
        np.testing.assert_allclose(value, full[name], atol=0.1)
    text = jax.jit(half.apply).lower(variables, images, labels).as_text()
    assert all(
        "bf16" in line for line in text.splitlines() if "stablehlo.convolution(" in line or "dot_general" in line
    )


@pytest.mark.parametrize("shape", [(28, 28, 1), (36, 64, 3)])
def test_deep_content_classifier_is_as_deep_as_the_style_encoder(shape):
    model = make_model(shape, num_classes=7, content="deep")
    params = variable_shapes(model)["params"]
    classifier = params["content_classifier"]

    def kernels(network):
        return [layer["kernel"].shape for name, layer in network.items() if name.startswith("Conv")]

    assert kernels(classifier["Encoder_0"]) == kernels(params["style_encoder"])
    assert len(kernels(classifier["Encoder_0"])) == 3
    assert classifier["out"]["kernel"].shape[-1] == 7
