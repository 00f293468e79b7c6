import io

import numpy as np
import pytest
from PIL import Image

from configs import rendered
from infoae_jax.demo.app import Demo, RequestError, load_demo
from infoae_jax.errors import UserError
from infoae_jax.images.handwriting import centre_strokes
from infoae_jax.inference import run_data
from infoae_jax.inference.npz import write_npz
from infoae_jax.inference.run_data import Examples
from tests.bundles import random_bundle
from tests.drawings import as_file, digit, from_data_url


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_drawing_gives_the_models_own_answers(demo):
    state = demo.encode(as_file(digit()), is_drawing=True)
    image = from_data_url(state["seen"])
    np.testing.assert_array_equal(image, centre_strokes(np.asarray(digit())))
    np.testing.assert_allclose(state["z"], demo.model.encode(image)[0], rtol=1e-5)
    read = demo.model.predict(image)
    assert (state["label"], state["confidence"]) == (read.labels[0], pytest.approx(float(read.confidence[0]), rel=1e-5))
    sheet = pixels(demo.decode(state["z"]))
    assert sheet.shape == (28, 280)
    theirs = demo.model.grid(image)[0, ..., 0].transpose(1, 0, 2).reshape(28, 280)
    assert np.abs(sheet / 255 - theirs).max() < 0.01
    assert np.ptp(sheet) > 50


def test_another_class_can_be_set(demo):
    file = as_file(digit())
    read = demo.encode(file)
    other = (read["label"] + 1) % 10
    state = demo.encode(file, label=other)
    assert (state["label"], state["confidence"]) == (other, None)
    with pytest.raises(UserError, match="10, but classes are numbered"):
        demo.encode(file, label=10)


def test_examples_are_shown_and_picked(demo):
    sheet = pixels(demo.example_sheet())
    assert sheet.shape == (56, 280)  # twelve, ten to a row
    np.testing.assert_array_equal(sheet[28:, 28:56], demo.examples.images[11, ..., 0])
    state = demo.encode_example(11)
    np.testing.assert_array_equal(from_data_url(state["seen"]), demo.examples.images[11, ..., 0])
    said = demo.describe()
    assert said["examples"] == demo.examples.labels.tolist()
    assert said["is_handwriting"] is True
    nothing = Demo("x", demo.model, Examples(demo.examples.images[:0], demo.examples.labels[:0]))
    with pytest.raises(RequestError, match="no example images") as error:
        nothing.example_sheet()
    assert error.value.status == 404


def test_a_scan_of_ink_on_paper_is_seen_as_a_drawing(demo):
    """Grey paper in uneven light, a JPEG that a phone's camera has turned."""
    paper = np.linspace(150, 190, 600)[:, None] + np.linspace(0, 20, 800)
    paper += np.random.default_rng(0).normal(0, 3, paper.shape)
    mask = np.asarray(digit((800, 600), (300, 150, 400, 350), 20)) > 0
    scan = Image.fromarray(np.where(mask, 40, paper).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    buffer = io.BytesIO()
    scan.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif)
    image = demo.prepare(buffer.getvalue(), is_drawing=False)[..., 0]
    clean = centre_strokes(np.asarray(digit((800, 600), (300, 150, 400, 350), 20)))
    assert np.abs(image.astype(float) - clean).mean() < 6
    assert image[0].max() == image[:, 0].max() == 0


def test_colours_are_taken_as_they_are():
    model = random_bundle(rendered.get_config("tiny"), (32, 32, 3), tuple("0123456789")).model
    model.__dict__["background"] = 0.5  # nothing needs to be compiled for it
    demo = Demo("x", model, Examples(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int32)))
    image = digit((32, 32), (8, 8, 20, 24), 3).convert("RGB")
    for is_drawing in (True, False):
        np.testing.assert_array_equal(demo.prepare(as_file(image), is_drawing), np.asarray(image))


def test_a_grey_upload_that_is_a_negative_is_turned():
    values = rendered.get_config("tiny")
    values.data.update(name="fashion_mnist", num_train=0, num_test=0)
    model = random_bundle(values, (32, 32, 1), tuple("0123456789")).model
    model.__dict__["background"] = 0.1
    demo = Demo("x", model, Examples(np.zeros((0, 32, 32, 1), np.uint8), np.zeros(0, np.int32)))
    paper = digit((32, 32), (8, 8, 20, 24), 3, ink=0, ground=255)
    np.testing.assert_array_equal(demo.prepare(as_file(paper), False)[..., 0], 255 - np.asarray(paper))
    np.testing.assert_array_equal(demo.prepare(as_file(paper), True)[..., 0], np.asarray(paper))


# --- load_demo --------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_its_test_images_or_without(untrained, one_device, monkeypatch, capsys):
    demo = load_demo(str(untrained))
    assert demo.name == "run"
    assert demo.examples.labels.tolist() == [*range(10)] * 4

    def lost(*_):
        raise UserError("There are no data any more.")

    monkeypatch.setattr(run_data, "generate", lost)
    assert len(load_demo(str(untrained)).examples.images) == 0
    assert capsys.readouterr().out == "Without test images to pick from: There are no data any more.\n"


def test_examples_of_another_model_are_refused(bundle, examples, tmp_path):
    extras = {"examples/images": examples.images[:, 2:], "examples/labels": examples.labels}
    write_npz(tmp_path / "mine.npz", bundle._replace(extras=extras))
    with pytest.raises(UserError, match=r"mine\.npz' is damaged.*examples.*do not fit its model\). Export it again"):
        load_demo(str(tmp_path / "mine.npz"))
