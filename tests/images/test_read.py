import contextlib
import io
import os
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.images import read
from infoae_jax.images.read import extract_strokes, open_image, read_drawings, read_images, to_array

GREY, RGB = (28, 28, 1), (32, 32, 3)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def file(tmp_path, array, name="a.png"):
    Image.fromarray(array).save(tmp_path / name)
    return tmp_path / name


def test_all_forms_of_the_same_images(rng, tmp_path):
    batch = rng.integers(0, 256, (3, *GREY), np.uint8)
    flat = batch[..., 0]
    paths = [file(tmp_path, image, f"{i}.png") for i, image in enumerate(flat)]
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    for form in (
        batch,
        flat,
        jnp.asarray(batch),
        list(batch),
        tuple(flat),
        [Image.fromarray(image) for image in flat],
        paths,
        [str(path) for path in paths],
        tmp_path,
        [flat[0], batch[1:2], paths[2]],
    ):
        found = read_images(form, GREY)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, batch)
    for form in (batch[0], flat[0], paths[0], Image.fromarray(flat[0])):
        np.testing.assert_array_equal(read_images(form, GREY), batch[:1])


def test_floats_stay_as_they_are_and_mix_with_bytes(rng):
    floats = rng.random((2, *RGB), np.float32)
    np.testing.assert_array_equal(read_images(floats, RGB), floats)
    for dtype in (np.float64, np.float16, jnp.bfloat16):
        found = read_images(jnp.asarray(floats, dtype) if dtype == jnp.bfloat16 else floats.astype(dtype), RGB)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, floats, atol=0.004)
    mixed = read_images([floats[0], np.full(RGB, 255, np.uint8)], RGB)
    np.testing.assert_array_equal(mixed, np.stack([floats[0], np.ones(RGB, np.float32)]))
    np.testing.assert_array_equal(read_images(floats[:1] * 0 + 1.00001, RGB), np.ones((1, *RGB), np.float32))


def test_three_axes_are_channels_if_the_last_one_is_short(rng):
    assert read_images(rng.random((28, 28, 1)), GREY).shape == (1, *GREY)
    assert read_images(rng.random((28, 28, 4)), GREY).shape == (1, *GREY)
    assert read_images(rng.random((28, 28, 28)), GREY).shape == (28, *GREY)
    assert read_images(rng.random((5, 28, 28)), GREY).shape == (5, *GREY)


def test_channels_are_converted_and_transparency_is_white():
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    np.testing.assert_array_equal(read_images(red, (32, 32, 1)), np.full((1, 32, 32, 1), 76))  # ITU-R 601
    grey = np.full((32, 32), 7, np.uint8)
    np.testing.assert_array_equal(read_images(grey, RGB), np.full((1, *RGB), 7))
    clear = np.zeros((32, 32, 4), np.uint8)
    np.testing.assert_array_equal(read_images(clear, RGB), np.full((1, *RGB), 255))
    half = np.dstack([np.zeros((32, 32)), np.full((32, 32), 0.5)])
    np.testing.assert_allclose(read_images(half, (32, 32, 1)), np.full((1, 32, 32, 1), 127), atol=1)


def test_another_size_is_stretched_with_one_warning(rng, tmp_path):
    wide = np.zeros((20, 40), np.uint8)
    wide[:, 20:] = 255
    path = file(tmp_path, wide)
    with pytest.warns(UserWarning, match=r"2 of 3 images to the model's 28x28 .*a\.png has 40x20") as caught:
        found = read_images([path, np.zeros((28, 28), np.uint8), wide / 255], GREY)
    assert len(caught) == 1
    np.testing.assert_array_equal(found[0], found[2])
    assert found[0, :, :12].max() < 30
    assert found[0, :, 16:].min() > 225


def test_a_file_is_read_as_training_reads_it(image_folder, tmp_path):
    from configs import folder

    root = image_folder(("apple", "pear"), count=2, size=(45, 37), mode="P")
    values = folder.get_config()
    values.data.dir, values.data.cache_dir = str(root), str(tmp_path / "cache")
    splits = load_splits(parse(values).data)
    with pytest.warns(UserWarning, match="4 of 4"):
        found = read_images([root / "apple", root / "pear"], RGB)
    trained_on = {image.tobytes() for split in splits[:2] for image in split.images}
    assert trained_on == {image.tobytes() for image in found}


def test_a_photo_is_turned_upright():
    image = Image.fromarray(np.repeat(np.arange(28, dtype=np.uint8)[None], 28, 0))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(to_array(open_image(buffer.getvalue(), "a"), "a")[..., 0], np.asarray(image)[:, ::-1])


BAD = {
    "nan": (lambda: np.full(GREY, np.nan, np.float32), "784 value.*not a number"),
    "range": (lambda: np.full(GREY, 200.0), "from 200 to 200.*divide by 255"),
    "negative": (lambda: np.full(GREY, -1.0), "from -1 to -1"),
    "integers": (lambda: np.zeros(GREY, np.int64), "int64.*uint8"),
    "booleans": (lambda: np.zeros(GREY, bool), "bool.*uint8"),
    "one axis": (lambda: np.zeros(784, np.uint8), r"\[784\]"),
    "rows of pixels": (lambda: np.zeros((5, 784), np.uint8), r"\[5, 784\].*[Rr]eshape.*\[N, 28, 28, 1\]"),
    "five axes": (lambda: np.zeros((1, 1, *GREY), np.uint8), r"\[1, 1, 28, 28, 1\]"),
    "channels first": (lambda: np.zeros((5, 1, 28, 28), np.uint8), r"\[5, 1, 28, 28\].*channels last"),
    "no image": (lambda: np.zeros((0, *GREY), np.uint8), "2x2 pixels or more"),
    "a column": (lambda: np.zeros((5, 1)), r"\[5, 1\].*2x2 pixels or more"),
    "a row": (lambda: np.zeros((1, 28), np.uint8), r"\[1, 28\].*2x2 pixels or more"),
    "a column of channels": (lambda: np.zeros((5, 1, 3), np.uint8), r"\[5, 1, 3\].*2x2 pixels or more"),
    "a column of rows": (lambda: np.zeros((5, 1, 10), np.uint8), r"\[5, 1, 10\].*2x2 pixels or more"),
    "a name that is too long": (lambda: "x" * 5000, "is too long"),
    "no image in a list": (list, "empty list"),
    "a list of numbers": (lambda: [[0.0, 1.0]], r"images\[0\]\[0\] is 0\.0 .*(float).*Pass an array"),
    "another thing": (lambda: [np.zeros(GREY, np.uint8), {"a": 1}], r"images\[1\] is \{'a': 1\} \(dict\)"),
    "no file": (lambda: "nothing.png", "nothing.png.*No such file"),
    "a zero in the name": (lambda: "a\0.png", "control characters"),
}


@pytest.mark.parametrize(("make", "says"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_named(make, says):
    with pytest.raises(UserError, match=says):
        read_images(make(), GREY)


def test_channels_first_or_three_grey_images_must_be_said():
    with pytest.raises(UserError, match=r"moveaxis.*x\[\.\.\., None\]"):
        read_images(np.zeros((3, 32, 32), np.uint8), RGB)
    assert read_images(np.zeros((3, 32, 32, 1), np.uint8), RGB).shape == (3, *RGB)
    assert read_images(np.zeros((3, 28, 28), np.uint8), GREY).shape == (3, *GREY)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png"):
        read_images(path, GREY)


def test_what_runs_programs_is_not_opened(tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "a.eps")
    with pytest.raises(UserError, match=r"a\.eps cannot be read \(not an image\)"):
        read_images(tmp_path / "a.eps", GREY)


def test_cut_off_and_noisy_files_never_lead_to_a_traceback(tmp_path, rng):
    whole = file(tmp_path, rng.integers(0, 256, (28, 28, 3), np.uint8)).read_bytes()
    path = tmp_path / "b.png"
    for i in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))] if i % 2 else whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings(), contextlib.suppress(UserError):
            warnings.simplefilter("ignore")
            assert read_images(path, GREY).shape == (1, *GREY)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="no PNG or JPEG"):
        read_images(tmp_path, GREY)


def test_a_large_drawing_is_made_small_first_whatever_its_kind(monkeypatch):
    seen, centre_strokes = [], read.centre_strokes
    monkeypatch.setattr(read, "centre_strokes", lambda *a: seen.append(a[0].shape) or centre_strokes(*a))
    page = np.full((1500, 1000), 255, np.uint8)
    page[200:800, 300:340] = page[760:800, 300:600] = 0
    grey = Image.fromarray(page)
    clear = Image.merge("LA", [Image.new("L", grey.size), Image.fromarray(255 - page)])  # black ink on nothing
    keyed = grey.copy()
    keyed.info["transparency"] = 255
    kinds = [grey, keyed, clear, clear.convert("RGBA"), *(grey.convert(mode) for mode in ("1", "P", "RGB", "CMYK"))]
    found = read_drawings(kinds, GREY).astype(int)
    assert {max(shape) for shape in seen} == {512}
    assert abs(found - found[0]).max() < 8
    assert found[0].max() == 255
    assert grey.size == (1000, 1500)  # somebody's own
    assert extract_strokes(Image.new("L", (3000, 1)), "a", (28, 28)) is None
    with pytest.raises(UserError, match="more than 8 bits"):
        extract_strokes(Image.new("I;16", (600, 600)), "a", (28, 28))


def test_drawing_of_nothing():
    with pytest.raises(UserError, match="no strokes"):
        read_drawings(np.full((40, 40), 0.9), GREY)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), tmp_path, [tmp_path]):
        with pytest.raises(UserError, match=r"a\.png cannot be read \(it is not a regular file\)"):
            read_images(given, GREY)
