import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import folder
from infoae_jax.data.folder import folder_source
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests.data_config import config_of


def test_folder_is_split_by_class_and_shuffled(image_folder, tmp_path):
    root = image_folder(("a", "b", "c"), count=10)
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert np.bincount(splits.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(splits.test.labels).tolist() == [2, 2, 2]
    assert splits.train.class_names == ("a", "b", "c")
    assert (np.diff(splits.train.labels) < 0).any()  # not sorted by class
    everything = np.concatenate([splits.train.images, splits.test.images])
    assert len({image.tobytes() for image in everything}) == 30  # no image on both sides
    other = load_splits(config_of(folder, tmp_path, dir=str(root), seed=1))
    assert not np.array_equal(other.test.images, splits.test.images)


def test_train_and_test_folders_are_kept_apart(image_folder, tmp_path, capsys):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test", seed=1)
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert (len(splits.train), len(splits.test)) == (8, 4)
    assert capsys.readouterr().out == ""
    image_folder(("plum", "fig"), count=1, root=root / "test")
    image_folder(("kiwi",), count=1, root=root / "train")
    with pytest.raises(
        UserError, match=r"only train/ has 'kiwi' and only test/ has 'fig', 'plum'\. Add images"
    ) as error:
        load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert "remove" not in str(error.value)
    assert "delete" not in str(error.value)


def test_unreadable_images_are_named(image_folder, tmp_path):
    root = image_folder()
    (root / "pear" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"pear/lost\.png"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_changed_folder_is_read_again(image_folder, tmp_path):
    root = image_folder(count=4)
    first = load_splits(config_of(folder, tmp_path, dir=str(root)))
    Image.new("RGB", (32, 32)).save(root / "pear" / "0.png")
    second = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert first.fingerprint != second.fingerprint


def test_folders_that_cannot_work(image_folder, tmp_path):
    def load(root, **overrides):
        return load_splits(config_of(folder, tmp_path, dir=str(root), **overrides))

    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no sub-folder"):
        load(empty)
    one = image_folder(("only",), root=tmp_path / "one")
    with pytest.raises(UserError, match="only 'only'"):
        load(one)
    (one / "hollow").mkdir()
    with pytest.raises(UserError, match=r"hollow has no PNG or JPEG"):
        load(one)
    single = image_folder(count=1, root=tmp_path / "single")
    with pytest.raises(UserError, match="has 1 image"):
        load(single)
    mixed = image_folder(root=tmp_path / "mixed")
    Image.new("RGB", (40, 24)).save(mixed / "pear" / "0.png")
    with pytest.raises(UserError, match=r"differ in size.*data\.image_size=32"):
        load(mixed, image_size=0)
    assert load(mixed).train.images.shape[1:] == (32, 32, 3)


# --- Splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("training", "testing"), ("train", "Testing")])
def test_splits_go_by_several_names(image_folder, tmp_path, train, test):
    root = tmp_path / "images"
    image_folder(count=4, root=root / train)
    image_folder(count=2, root=root / test, seed=1)
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert (len(splits.train), len(splits.test)) == (8, 4)


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "VAL"])
def test_validation_images_test_only_if_nothing_else_does(image_folder, tmp_path, capsys, name):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=3, root=root / name, seed=1)
    config = config_of(folder, tmp_path, dir=str(root))
    assert len(load_splits(config).test) == 6
    assert capsys.readouterr().out == f"{root}: {name}/ serves as the test split, as there is no test/.\n"
    image_folder(count=2, root=root / "test", seed=2)
    assert len(load_splits(config).test) == 4
    assert capsys.readouterr().out == f"{root}: 6 file(s) are not used: {name}/ (6 files).\n"


def test_two_folders_of_one_split_are_refused(image_folder, tmp_path):
    root = tmp_path / "images"
    for name in ("train", "Training", "test"):
        image_folder(count=4, root=root / name)
    with pytest.raises(UserError, match="has Training/ and train/, which mean the same split. Rename one, or move"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


# --- What is not used -------------------------------------------------------------------------------------------------


def test_everything_that_is_not_used_is_counted_and_named(image_folder, tmp_path, capsys):
    root = image_folder(("a", "b"), count=4)
    config = config_of(folder, tmp_path, dir=str(root))
    load_splits(config)
    assert capsys.readouterr().out == ""
    (root / ".hidden").mkdir()
    (root / ".hidden" / "1.png").touch()
    (root / "a" / ".hidden").mkdir()
    (root / "a" / ".hidden" / "1.png").touch()
    (root / "b" / "empty").mkdir()
    load_splits(config)
    assert capsys.readouterr().out == ""
    image_folder(("more",), count=3, root=root / "a")
    (root / "a" / "more" / ".hidden.png").touch()
    load_splits(config)
    assert capsys.readouterr().out == f"{root}: 3 file(s) are not used: a/more/ (3 files).\n"
    image_folder(("x.png",), count=1, root=root / "a")
    (root / "0.png").touch()
    (root / "b" / "x.webp").touch()
    (root / "b" / "x.txt").touch()
    (root / "b" / os.fsdecode(b"\xff.txt")).touch()
    (root / "b" / "x.jpg").mkdir()
    (root / "b" / "x.jpg" / "0.jpg").touch()
    expected = "9 file(s) are not used: 0.png, a/more/ (3 files), a/x.png/ (1 file) and 4 more."
    for _ in range(2):  # also when the images come from the cache
        load_splits(config)
        assert capsys.readouterr().out == f"{root}: {expected}\n"


def test_a_name_that_is_not_utf8_is_printed_all_the_same(image_folder, tmp_path, capsys):
    root = image_folder(("a", "b"), count=4)
    (root / os.fsdecode(b"\xff.txt")).touch()
    load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert r"1 file(s) are not used: \udcff.txt." in capsys.readouterr().out


def test_folders_beside_the_splits_are_not_used(image_folder, tmp_path, capsys):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test", seed=1)
    image_folder(count=1, root=root / "val")
    image_folder(("pear",), count=3, root=root)
    (root / "test" / "0.png").touch()
    load_splits(config_of(folder, tmp_path, dir=str(root)))
    said = "6 file(s) are not used: pear/ (3 files), val/ (2 files), test/0.png."
    assert capsys.readouterr().out == f"{root}: {said}\n"


# --- Names of classes -------------------------------------------------------------------------------------------------


def test_classes_are_in_natural_order(image_folder, tmp_path):
    names = ("1", "2", "10", "20", "b", "img2", "img10", "img10a2", "img10a10", "ä")
    root = image_folder(names[::-1], count=2)
    assert load_splits(config_of(folder, tmp_path, dir=str(root))).train.class_names == names


def test_names_are_one_form_of_unicode(image_folder, tmp_path):
    root = image_folder(("cafe\u0301", "tea"), count=2)
    config = config_of(folder, tmp_path, dir=str(root))
    assert load_splits(config).train.class_names == ("caf\xe9", "tea")
    image_folder(("caf\xe9",), count=2)
    with pytest.raises(UserError, match=r"two class folders 'caf\xe9'.*'cafe\\u0301' and 'caf\\xe9'"):
        load_splits(config)


def test_splits_match_whatever_form_of_unicode_they_have(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(("cafe\u0301", "tea"), count=2, root=root / "train")
    image_folder(("caf\xe9", "tea"), count=2, root=root / "test", seed=1)
    assert load_splits(config_of(folder, tmp_path, dir=str(root))).test.class_names == ("caf\xe9", "tea")


@pytest.mark.parametrize(
    ("name", "shown"), [(b"\xff\xfe", r"\\udcff\\udcfe"), (b"a\nb", r"a\\nb"), (b"\x1b[1m", r"\\x1b")]
)
def test_names_that_cannot_be_printed_are_refused(image_folder, tmp_path, name, shown):
    root = image_folder((os.fsdecode(name), "tea"), count=2)
    with pytest.raises(UserError, match=f"{shown}.*not printable UTF-8. Rename it"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_another_order_or_name_of_classes_is_another_cache(image_folder, tmp_path):
    root = image_folder(("9", "tea"), count=2)
    first = folder_source(config_of(folder, tmp_path, dir=str(root))).key
    (root / "9").rename(root / "10")
    second = folder_source(config_of(folder, tmp_path, dir=str(root))).key
    assert first["classes"] == ["9", "tea"]
    assert second["classes"] == ["10", "tea"]


# --- Special files and permissions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_named_not_waited_for(image_folder, tmp_path, make):
    root = image_folder()
    make(root / "pear" / "pipe.png")
    with pytest.raises(UserError, match=r"pear/pipe\.png cannot be read \(it is not a regular file\)"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


def test_a_folder_that_is_not_used_and_may_not_be_read_is_named(image_folder, tmp_path, monkeypatch, capsys):
    root = image_folder(count=2)
    image_folder(("more",), root=root / "pear")
    scandir = os.scandir

    def refused(path):
        if Path(path) == root / "pear" / "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert capsys.readouterr().out == f"{root}: 1 file(s) are not used: pear/more/ (1 file).\n"


@pytest.mark.parametrize(
    ("call", "where", "named"),
    [
        ("iterdir", "", ""),
        ("iterdir", "pear", "pear"),
        ("stat", "pear", ""),
        ("stat", "pear/0.png", "pear"),
        ("read_bytes", "pear/0.png", "pear/0.png"),
    ],
)
def test_what_may_not_be_read_is_named(image_folder, tmp_path, monkeypatch, call, where, named):
    root = image_folder()
    original = getattr(Path, call)

    def refused(path, *arguments, **options):
        if path == root / where:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(
        UserError, match=rf"{(root / named).relative_to(tmp_path)} cannot be read \(Permission denied\)"
    ):
        load_splits(config_of(folder, tmp_path, dir=str(root)))
