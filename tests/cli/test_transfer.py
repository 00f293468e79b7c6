import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infoae_jax.cli import swaps, transfer
from infoae_jax.cli.main import main
from tests.sheets import cells


def test_every_style_with_every_class(command, untrained_model, capsys):
    words = ("transfer", "RUN", "--style", "a.png", "more", "--content", "all", "--out=grid.png", "--scale=1")
    assert command(*words) == 0
    read = untrained_model.predict(["a.png", "more"])
    *said, name = capsys.readouterr().out.splitlines()
    assert said == [
        f"style {i + 1} is read as '{read.labels[i]}' ({read.confidence[i]:.1%} sure)" for i in range(len(read.labels))
    ]
    assert name == "grid.png"
    sources, found = cells("grid.png", 3, 10, header=13)
    for source, name in zip(sources, ("a.png", "more/c.png", "more/d.png"), strict=True):
        np.testing.assert_array_equal(source, np.asarray(Image.open(name)))
    expected = untrained_model.grid(["a.png", "more"])
    assert abs(found / 255 - expected).max() < 0.003


def test_one_class_alone(command, untrained_model):
    words = ("--style", "a.png", "--content", "7", "--out", "seven.png", "--swaps_only", "--scale=1")
    assert command("transfer", "RUN", *words) == 0
    seven = np.asarray(Image.open("seven.png"))
    assert abs(seven / 255 - untrained_model.transfer("a.png", 7).images[0]).max() < 0.003


@pytest.mark.parametrize("classes", [("7",), ("7", "1", "0")])
def test_the_class_of_a_style_image_can_be_given(command, untrained_model, capsys, classes):
    words = ("--style", "a.png", "more", "--content", "3", "--out", "three.png", "--swaps_only", "--scale=1")
    assert command("transfer", "RUN", *words, "--style_class", *classes) == 0
    assert capsys.readouterr().out == "three.png\n"
    threes = np.asarray(Image.open("three.png")).reshape(3, 32, 32, 3) / 255
    known = untrained_model.grid(["a.png", "more"], 3, [int(name) for name in classes])[:, 0]
    assert abs(threes - known).max() < 0.003
    assert abs(known - untrained_model.grid(["a.png", "more"], 3)[:, 0]).max() > 0.003  # the classifier reads others


def test_the_content_of_images(command, untrained_model, capsys):
    words = ("--style", "a.png", "--content", "b.png", "more/c.png", "--out", "swap.png", "--scale=1")
    assert command("transfer", "RUN", *words) == 0
    expected = untrained_model.transfer("a.png", ["b.png", "more/c.png"])
    printed = capsys.readouterr().out
    for i in range(2):
        assert f"content {i + 1} is read as '{expected.labels[i]}' ({expected.confidence[i]:.1%} sure)" in printed
    sources, found = cells("swap.png", 2, 2, header=13)
    np.testing.assert_array_equal(found[0], [np.asarray(Image.open(name)) for name in ("b.png", "more/c.png")])
    assert sources[0].min() == 255
    assert abs(found[1] / 255 - expected.images).max() < 0.003


def test_negatives_and_drawings_are_turned_first(command):
    Image.fromarray(255 - np.asarray(Image.open("a.png"))).save("negative.png")
    shared = ("--content", "7", "--scale=1")
    assert command("transfer", "RUN", "--style", "a.png", "--out=1.png", *shared) == 0
    assert command("transfer", "RUN", "--style", "negative.png", "--invert", "--out=2.png", *shared) == 0
    np.testing.assert_array_equal(Image.open("1.png"), Image.open("2.png"))
    page = np.full((300, 200), 240, np.uint8)
    page[40:100, 30:40] = 20
    Image.fromarray(page).save("pen.png")
    assert command("transfer", "RUN", "--style", "pen.png", "--drawing", "--out=3.png", *shared) == 0
    source = cells("3.png", 1, 1, header=13)[0][0]
    assert source[:4].max() == 0
    assert source[14:18, 14:18].min() > 200


BAD = {
    "no such image": (("--style", "x.png", "--content", "7"), "no file or folder 'x.png'"),
    "no image": (("--style", "notes.png", "--content", "7"), "notes.png cannot be read (not an image)"),
    "no class for a style": (("--style", "a.png", "--content", "7", "--style_class", "ten"), "'ten', which is neither"),
    "classes of other styles": (
        ("--style", "a.png", "--content", "7", "--style_class", "1", "2"),
        "each of the 1 style",
    ),
    "no class": (("--style", "a.png", "--content", "ten"), "'ten', which is neither a class nor a file"),
    "classes and images": (("--style", "a.png", "--content", "1", "b.png"), "both classes and images"),
    "a name without png": (("--style", "a.png", "--content", "7", "--out", "x.jpg"), "must end in .png"),
    "there already": (("--style", "a.png", "--content", "7", "--out", "b.png"), "'b.png' exists"),
    "no folder": (("--style", "a.png", "--content", "7", "--out", "no/x.png"), "the folder 'no' does not exist"),
    "a folder": (("--style", "a.png", "--content", "7", "--out", "dir.png", "--force"), "'dir.png' exists"),
    "no pixel": (("--style", "a.png", "--content", "7", "--scale", "0"), "--scale is 0"),
    "a pipe": (("--style", "pipe", "--content", "7"), "pipe cannot be read (it is not a regular file)"),
    "a number that is no class": (("--style", "a.png", "--content", "10"), "is 10, but classes are numbered 0 to 9"),
    "an empty drawing": (("--style", "white.png", "--content", "7", "--drawing"), "white.png shows no strokes"),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_mistakes_are_answered_with_a_sentence(command, words, says, capsys, images_here):
    (images_here / "notes.png").write_text("not an image")
    (images_here / "dir.png").mkdir()
    Image.new("L", (40, 40), "white").save("white.png")
    os.mkfifo("pipe")
    before = sorted(path.name for path in images_here.iterdir())
    words = words if "--out" in words else (*words, "--out", "out.png")
    assert command("transfer", "RUN", *words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert says in err
    assert out == ""
    assert sorted(path.name for path in images_here.iterdir()) == before


def test_a_run_that_is_missing_is_named(images_here, capsys):
    assert main(["transfer", "nothing", "--style", "a.png", "--content", "7", "--out", "out.png"]) == 2
    assert "no run folder, exported .npz file or pretrained model" in capsys.readouterr().err


def test_too_many_images_for_one_file(command, monkeypatch, capsys):
    monkeypatch.setattr(swaps, "MAX_CELLS", 9)
    assert command("transfer", "RUN", "--style", "a.png", "--content", "all", "--out=x.png") == 2
    assert "1 x 10 images are too many for one file (at most 9)" in capsys.readouterr().err


def test_a_file_is_replaced_only_when_asked_to(command):
    words = ("transfer", "RUN", "--style", "a.png", "--content", "7", "--out", "b.png")
    before = Path("b.png").read_bytes()
    assert command(*words) == 2
    assert Path("b.png").read_bytes() == before
    assert command(*words, "--force") == 0
    assert Path("b.png").read_bytes() != before
    assert not [name for name in os.listdir() if name.startswith(".")]  # no temporary file is left


def test_ctrl_c_ends_with_130(command, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "run", interrupted)
    assert command("transfer", "RUN", "--style", "a.png", "--content", "7", "--out=x.png") == 130
    assert capsys.readouterr().err == "Interrupted. What was finished before is kept.\n"
