import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infoae_jax.cli import interpolate, swaps, transfer
from infoae_jax.cli.main import main
from infoae_jax.devices import setup as device_setup
from infoae_jax.inference import load as load_module
from infoae_jax.inference.load import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Devices are set up already, and the model is loaded once."""
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)


@pytest.fixture(scope="module")
def trained(untrained):
    return load(untrained)


@pytest.fixture
def command(untrained, trained, tmp_path, monkeypatch):
    """Runs a command on the run `RUN`, in `tmp_path`, which has pictures a.png and b.png and the folder more/."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    for name in ("a.png", "b.png", "more/c.png", "more/d.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(name)
    monkeypatch.setattr(load_module, "load", lambda run, step=None: trained)
    return lambda *words: main([str(untrained) if word == "RUN" else word for word in words])


def cells(path, rows, columns, first=8, side=32, gap=2):
    """The sources (first column) and the other cells of a sheet drawn with `--scale=1`."""
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (rows * (side + gap) - gap, (columns + 1) * (side + gap) - gap + first, 3)
    places = [
        [sheet[i * 34 : i * 34 + 32, (j * 34 + 8 * (j > 0)) :][:, :32] for j in range(columns + 1)] for i in range(rows)
    ]
    grid = np.array(places)
    return grid[:, 0], grid[:, 1:]


def test_transfer_draws_every_style_with_every_class(command, trained, capsys):
    words = ("transfer", "RUN", "--style", "a.png", "more", "--content", "all", "--out=grid.png", "--scale=1")
    assert command(*words) == 0
    read = trained.predict(["a.png", "more"])
    *said, name = capsys.readouterr().out.splitlines()
    assert said == [
        f"style {i + 1} is read as '{read.labels[i]}' ({read.confidence[i]:.1%} sure)" for i in range(len(read.labels))
    ]
    assert name == "grid.png"
    sources, swaps = cells("grid.png", 3, 10)
    for source, name in zip(sources, ("a.png", "more/c.png", "more/d.png"), strict=True):
        np.testing.assert_array_equal(source, np.asarray(Image.open(name)))
    expected = trained.grid(["a.png", "more"])
    assert abs(swaps / 255 - expected).max() < 0.003


def test_transfer_of_one_class_alone(command, trained):
    words = ("--style", "a.png", "--content", "7", "--out", "seven.png", "--swaps_only", "--scale=1")
    assert command("transfer", "RUN", *words) == 0
    seven = np.asarray(Image.open("seven.png"))
    assert abs(seven / 255 - trained.transfer("a.png", 7).images[0]).max() < 0.003


@pytest.mark.parametrize("classes", [("7",), ("7", "1", "0")])
def test_the_class_of_a_style_picture_can_be_said(command, trained, capsys, classes):
    words = ("--style", "a.png", "more", "--content", "3", "--out", "three.png", "--swaps_only", "--scale=1")
    assert command("transfer", "RUN", *words, "--style_class", *classes) == 0
    assert capsys.readouterr().out == "three.png\n"
    threes = np.asarray(Image.open("three.png")).reshape(3, 32, 32, 3) / 255
    known = trained.grid(["a.png", "more"], 3, [int(name) for name in classes])[:, 0]
    assert abs(threes - known).max() < 0.003
    assert abs(known - trained.grid(["a.png", "more"], 3)[:, 0]).max() > 0.003  # of none is it read so


def test_transfer_of_the_content_of_pictures(command, trained, capsys):
    words = ("--style", "a.png", "--content", "b.png", "more/c.png", "--out", "swap.png", "--scale=1")
    assert command("transfer", "RUN", *words) == 0
    expected = trained.transfer("a.png", ["b.png", "more/c.png"])
    printed = capsys.readouterr().out
    for i in range(2):
        assert f"content {i + 1} is read as '{expected.labels[i]}' ({expected.confidence[i]:.1%} sure)" in printed
    sources, swaps = cells("swap.png", 2, 2)
    np.testing.assert_array_equal(swaps[0], [np.asarray(Image.open(name)) for name in ("b.png", "more/c.png")])
    assert sources[0].min() == 255
    assert abs(swaps[1] / 255 - expected.images).max() < 0.003


def test_interpolate_goes_from_one_picture_to_the_other(command, trained):
    words = ("--from", "a.png", "--to", "b.png", "--content", "7", "3", "--steps=4", "--out", "way.png", "--scale=1")
    assert command("interpolate", "RUN", *words) == 0
    sources, swaps = cells("way.png", 2, 5)
    np.testing.assert_array_equal(sources, [np.asarray(Image.open("a.png"))] * 2)
    np.testing.assert_array_equal(swaps[:, -1], [np.asarray(Image.open("b.png"))] * 2)
    for row, label in enumerate((7, 3)):
        assert abs(swaps[row, :-1] / 255 - trained.interpolate("a.png", "b.png", label, 4)).max() < 0.003


def test_negatives_and_drawings_are_turned_first(command, trained, monkeypatch):
    Image.fromarray(255 - np.asarray(Image.open("a.png"))).save("negative.png")
    shared = ("--content", "7", "--scale=1")
    assert command("transfer", "RUN", "--style", "a.png", "--out=1.png", *shared) == 0
    assert command("transfer", "RUN", "--style", "negative.png", "--invert", "--out=2.png", *shared) == 0
    np.testing.assert_array_equal(Image.open("1.png"), Image.open("2.png"))
    page = np.full((300, 200), 240, np.uint8)
    page[40:100, 30:40] = 20
    Image.fromarray(page).save("pen.png")
    assert command("transfer", "RUN", "--style", "pen.png", "--drawing", "--out=3.png", *shared) == 0
    source = cells("3.png", 1, 1)[0][0]
    assert source[:4].max() == 0
    assert source[14:18, 14:18].min() > 200


BAD = {
    "no such picture": (("--style", "x.png", "--content", "7"), "no file or folder 'x.png'"),
    "no picture": (("--style", "notes.png", "--content", "7"), "notes.png cannot be read (not an image)"),
    "no class for a style": (("--style", "a.png", "--content", "7", "--style_class", "ten"), "'ten', which is neither"),
    "classes of other styles": (
        ("--style", "a.png", "--content", "7", "--style_class", "1", "2"),
        "each of the 1 style",
    ),
    "no class": (("--style", "a.png", "--content", "ten"), "'ten', which is neither a class nor a file"),
    "classes and pictures": (("--style", "a.png", "--content", "1", "b.png"), "both classes and pictures"),
    "no run": (("--style", "a.png", "--content", "7"), "'nothing' is not a run folder"),
    "a name without png": (("--style", "a.png", "--content", "7", "--out", "x.jpg"), "must end in .png"),
    "there already": (("--style", "a.png", "--content", "7", "--out", "b.png"), "already there"),
    "no folder": (("--style", "a.png", "--content", "7", "--out", "no/x.png"), "the folder 'no' does not exist"),
    "a folder": (("--style", "a.png", "--content", "7", "--out", "dir.png", "--force"), "already there"),
    "no pixel": (("--style", "a.png", "--content", "7", "--scale", "0"), "--scale is 0"),
    "nothing drawn": (("--style", "white.png", "--content", "7", "--drawing"), "white.png shows no strokes"),
}


@pytest.mark.parametrize(("words", "says"), BAD.values(), ids=BAD)
def test_mistakes_are_answered_with_a_sentence(command, words, says, capsys, tmp_path, monkeypatch, request):
    (tmp_path / "notes.png").write_text("not an image")
    (tmp_path / "dir.png").mkdir()
    Image.new("L", (40, 40), "white").save("white.png")
    run = "RUN"
    if "no run" in request.node.name:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(device_setup, "set_up", lambda *_: None)
        run = "nothing"
    before = sorted(path.name for path in tmp_path.iterdir())
    words = words if "--out" in words else (*words, "--out", "out.png")
    assert command("transfer", run, *words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert says in err
    assert out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_too_many_pictures_for_one_file(command, monkeypatch, capsys):
    monkeypatch.setattr(swaps, "_MOST_CELLS", 9)
    assert command("transfer", "RUN", "--style", "a.png", "--content", "all", "--out=x.png") == 2
    assert "1 x 10 pictures are too many" in capsys.readouterr().err


def test_a_file_is_replaced_only_when_asked_to(command):
    words = ("transfer", "RUN", "--style", "a.png", "--content", "7", "--out", "b.png")
    before = Path("b.png").read_bytes()
    assert command(*words) == 2
    assert Path("b.png").read_bytes() == before
    assert command(*words, "--force") == 0
    assert Path("b.png").read_bytes() != before
    assert not [name for name in os.listdir() if name.startswith(".")]  # no temporary file is left


@pytest.mark.parametrize("name", ["transfer", "interpolate"])
def test_help_has_an_example_that_is_understood(name, capsys, monkeypatch, untrained):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    examples = [line.split() for line in text.splitlines() if line.startswith(f"  infoae {name} ")]
    assert examples
    called = []
    monkeypatch.setattr({"transfer": transfer, "interpolate": interpolate}[name], "run", called.append)
    for words in examples:
        assert main(words[1:]) == 0
    assert len(called) == len(examples)


def test_ctrl_c_ends_with_130(command, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "run", interrupted)
    assert command("transfer", "RUN", "--style", "a.png", "--content", "7", "--out=x.png") == 130
    assert capsys.readouterr().err == "Interrupted. What was finished before is kept.\n"


@pytest.mark.parametrize("words", [["transfer"], ["transfer", "RUN", "--style"], ["dance"]])
def test_what_is_no_command_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: infoae" in capsys.readouterr().err


def test_as_a_program_of_its_own(untrained, tmp_path):
    words = ["transfer", str(untrained), "--style=nothing.png", "--content=7", f"--out={tmp_path / 'x.png'}"]
    command = [sys.executable, "-m", "infoae_jax", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr == "error: There is no file or folder 'nothing.png'.\n"


def test_alone_says_which_commands_there_are(capsys):
    assert main([]) == 2
    assert "infoae transfer runs/mnist" in capsys.readouterr().err


def test_a_model_of_the_package_cannot_be_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "mnist"]) == 2
    assert "is a pretrained model, which has no checkpoint" in capsys.readouterr().err
