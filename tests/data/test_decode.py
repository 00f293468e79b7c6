import os

import numpy as np
import pytest
from PIL import Image

from configs import folder
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests.data_config import config_of


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_folder_converts_and_resizes(image_folder, tmp_path, mode, channels):
    root = image_folder(count=2)
    name = root / "pear" / ("9.jpg" if mode == "CMYK" else "9.png")
    Image.new("RGB", (50, 40), (255, 0, 0)).convert(mode).save(name)
    splits = load_splits(config_of(folder, tmp_path, dir=str(root), channels=channels))
    assert splits.train.images.shape[1:] == (32, 32, channels)
    colours = {
        tuple(image[16, 16]) for split in splits[:2] for image in split.images if np.ptp(image, (0, 1)).max() < 9
    }
    (seen,) = colours
    expected = (76,) if channels == 1 else (255, 0, 0) if mode in ("RGB", "RGBA", "P", "CMYK") else (76,) * 3
    np.testing.assert_allclose(np.array(seen, int), expected, atol=4)


def test_transparent_areas_become_white(image_folder, tmp_path):
    root = image_folder(count=2)
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(root / "pear" / "9.png")
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert max(image.min() for split in splits[:2] for image in split.images) == 255


def break_folder(root, how):
    victim = root / "pear" / "3.png"
    if how == "zero bytes":
        victim.write_bytes(b"")
    elif how == "truncated":
        victim.write_bytes(victim.read_bytes()[:200])
    elif how == "text":
        victim.write_text("not an image")
    elif how == "16 bit":
        Image.fromarray(np.zeros((32, 32), np.uint16)).save(victim)


@pytest.mark.parametrize(
    ("how", "says"),
    [("zero bytes", "empty"), ("truncated", "cannot be read"), ("text", "not an image"), ("16 bit", "8 bits")],
)
def test_a_broken_image_is_named(image_folder, tmp_path, how, says):
    root = image_folder()
    break_folder(root, how)
    with pytest.raises(UserError, match=rf"pear/3\.png.*{says}"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_what_the_memory_cannot_hold_is_refused(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(
        UserError, match=r"10 images of 32x32 pixels need 0\.0 GB of memory, but this machine has 0\.0 GB"
    ):
        load_splits(config_of(folder, tmp_path, dir=str(image_folder())))


def test_a_bomb_is_named(image_folder, tmp_path, monkeypatch):
    root = image_folder()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"\.png cannot be read \(Image size \(1024 pixels\) exceeds limit"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))
