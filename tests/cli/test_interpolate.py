import numpy as np
import pytest
from PIL import Image

from tests.sheets import cells


def test_the_way_from_one_image_to_the_other(command, untrained_model, capsys):
    words = ("--from", "a.png", "--to", "b.png", "--content", "7", "3", "--steps=4", "--out", "way.png", "--scale=1")
    assert command("interpolate", "RUN", *words) == 0
    read = untrained_model.predict(["a.png", "b.png"])
    assert capsys.readouterr().out.splitlines() == [
        *(f"style {i + 1} is read as '{read.labels[i]}' ({read.confidence[i]:.1%} sure)" for i in range(2)),
        "way.png",
    ]
    sources, found = cells("way.png", 2, 5)
    np.testing.assert_array_equal(sources, [np.asarray(Image.open("a.png"))] * 2)
    np.testing.assert_array_equal(found[:, -1], [np.asarray(Image.open("b.png"))] * 2)
    for row, label in enumerate((7, 3)):
        assert abs(found[row, :-1] / 255 - untrained_model.interpolate("a.png", "b.png", label, 4)).max() < 0.003


def test_one_step_is_too_few(command, capsys):
    words = ("--from", "a.png", "--to", "b.png", "--content", "7", "--steps=1", "--out", "way.png")
    assert command("interpolate", "RUN", *words) == 2
    assert "--steps is 1, but must be at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "other"), [("--from", "--to"), ("--to", "--from")])
def test_a_folder_of_several_images_is_no_end_of_the_way(command, capsys, option, other):
    words = (option, "more", other, "b.png", "--content", "7", "--out", "way.png")
    assert command("interpolate", "RUN", *words) == 2
    assert f"{option} is a folder of 2 images. Name a single one." in capsys.readouterr().err
