import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import folder, mnist, rendered, svhn
from infoae_jax.config import parse
from infoae_jax.data import rendered as rendered_data
from infoae_jax.data import tfds
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests import tfds_files
from tests.shared_data import SHARED, needs_shared


def config_of(module, cache, arg="", **overrides):
    values = module.get_config(arg)
    values.data.cache_dir = str(cache)
    values.data.update(overrides)
    return parse(values).data


@pytest.fixture
def fake_mnist(tmp_path):
    shape = (28, 28, 1)
    splits = {"train": tfds_files.random_split(shape, 64, 0), "test": tfds_files.random_split(shape, 20, 1)}
    return tfds_files.write(tmp_path / "tfds", "mnist", "3.0.1", shape, splits), splits


# --- TFDS -------------------------------------------------------------------------------------------------------------


def test_tfds_gives_the_images_that_were_put_in(fake_mnist, tmp_path):
    path, expected = fake_mnist
    splits = load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))
    for split, (images, labels) in zip((splits.train, splits.test), expected.values(), strict=True):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert splits.train.class_names == tuple("0123456789")
    assert "tensorflow" not in sys.modules


def test_splits_are_added_and_sliced(tmp_path):
    shape = (32, 32, 3)
    parts = {name: tfds_files.random_split(shape, 20, i) for i, name in enumerate(("train", "test", "extra"))}
    path = tfds_files.write(tmp_path / "tfds", "svhn_cropped", "3.1.0", shape, parts, extra_features=["id"])
    config = config_of(svhn, tmp_path, dir=str(path.parents[1]), split="train+extra", test_split="test[:50%]")
    splits = load_splits(config)
    assert (len(splits.train), len(splits.test)) == (40, 10)
    np.testing.assert_array_equal(splits.train.images[20:], parts["extra"][0])


def test_tfds_images_are_resized_and_converted_when_asked(fake_mnist, tmp_path):
    path, _ = fake_mnist
    splits = load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1]), image_size=32, channels=3))
    assert splits.train.images.shape == (64, 32, 32, 3)


@pytest.mark.parametrize("damage", ["truncated", "zeros in the middle", "empty", "missing"])
def test_damaged_records_are_named_never_trained_on(fake_mnist, tmp_path, damage):
    path, _ = fake_mnist
    file = next(path.glob("*-train.array_record*"))
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "zeros in the middle":
        content[len(content) // 2 : len(content) // 2 + 1000] = bytes(1000)
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"split 'train'.*damaged"):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


def test_a_broken_image_inside_a_record_is_named(tmp_path):
    images, labels = tfds_files.random_split((28, 28, 1), 10, 0)
    encoded = [tfds_files.png(image) for image in images]
    encoded[7] = encoded[7][:100]
    splits = {"train": (encoded, labels), "test": (images, labels)}
    path = tfds_files.write(tmp_path / "tfds", "mnist", "3.0.1", (28, 28, 1), splits)
    with pytest.raises(UserError, match=r"image 7 of mnist split 'train'.*cannot be decoded"):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


@pytest.mark.parametrize(("label", "says"), [(-1, "labels from -1"), (10, "labels from 0 to 10")])
def test_labels_out_of_range(tmp_path, label, says):
    images, labels = tfds_files.random_split((28, 28, 1), 10, 0)
    bad = np.array([*labels[:-1], label])
    path = tfds_files.write(
        tmp_path / "tfds", "mnist", "3.0.1", (28, 28, 1), {"train": (images, bad), "test": (images, labels)}
    )
    with pytest.raises(UserError, match=says):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


def test_unknown_split_and_unknown_name(fake_mnist, tmp_path):
    root = str(fake_mnist[0].parents[1])
    with pytest.raises(UserError, match=r"no 'trian'.*train, test"):
        load_splits(config_of(mnist, tmp_path, dir=root, split="trian"))
    with pytest.raises(UserError, match=r"'train\[:0\]' of mnist is empty"):
        load_splits(config_of(mnist, tmp_path, dir=root, split="train[:0]"))
    with pytest.raises(UserError, match="'mnits'.*TFDS does not know"):
        load_splits(config_of(mnist, tmp_path, dir=root, name="mnits"))


def test_unprepared_data_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not prepared") as caught:
        load_splits(config_of(mnist, tmp_path, dir=str(tmp_path / "nothing")))
    for part in (r"pip install -e '.[prepare]'", "configs/rendered.py", str(tmp_path / "nothing")):
        assert part in str(caught.value)


def test_failed_preparation_gives_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "_PREPARE", "raise OSError('no route to host')")
    with pytest.raises(UserError, match="no route to host"):
        load_splits(config_of(mnist, tmp_path, dir=str(tmp_path / "nothing")))


@needs_shared
def test_real_mnist(tmp_path):
    config = config_of(mnist, tmp_path, dir=str(SHARED / "tensorflow_datasets"))
    splits = load_splits(config)
    assert (splits.train.images.shape, splits.test.images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(splits.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    begin = time.process_time()
    again = load_splits(config)
    assert time.process_time() - begin < 1
    assert again.fingerprint == splits.fingerprint
    np.testing.assert_array_equal(again.train.images, splits.train.images)


# --- Preparing (needs the extra 'prepare') ----------------------------------------------------------------------------

PREPARE_MAT = """
import sys
from pathlib import Path
from unittest import mock
import tensorflow_datasets as tfds
mats, target = map(Path, sys.argv[1:])

def download(self, urls):
    return {split: mats / Path(url).name for split, url in urls.items()}

with mock.patch.object(tfds.download.DownloadManager, "download", download):
    tfds.builder("svhn_cropped", data_dir=target, file_format="array_record").download_and_prepare()
"""


@pytest.mark.slow
def test_svhn_tiny_trains_on_mat_files_prepared_by_tfds(tmp_path):
    pytest.importorskip("tensorflow", reason="preparing data sets needs the extra 'prepare'")
    loadmat = pytest.importorskip("scipy.io", reason="preparing data sets needs the extra 'prepare'")
    rng = np.random.default_rng(0)
    mats = tmp_path / "mats"
    mats.mkdir()
    for split, count in (("train", 300), ("test", 80), ("extra", 20)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
        loadmat.savemat(mats / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    subprocess.run([sys.executable, "-c", PREPARE_MAT, str(mats), str(tmp_path / "tfds")], check=True)
    result = subprocess.run(
        [sys.executable, "launch.py", "--config=configs/svhn.py:tiny", f"--config.data.dir={tmp_path / 'tfds'}"]
        + [f"--config.data.cache_dir={tmp_path}", f"--workdir={tmp_path / 'run'}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Finished" in result.stdout


@pytest.mark.slow
@needs_shared
def test_mnist_is_prepared_from_the_original_archives(tmp_path):
    pytest.importorskip("tensorflow", reason="preparing data sets needs the extra 'prepare'")
    downloads = tmp_path / "tfds" / "downloads" / "mnist"
    downloads.mkdir(parents=True)
    for file in (SHARED / "tfds_downloads" / "mnist").iterdir():
        (downloads / file.name).write_bytes(file.read_bytes())
    splits = load_splits(config_of(mnist, tmp_path, dir=str(tmp_path / "tfds")))
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)


# --- Folders ----------------------------------------------------------------------------------------------------------


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


def test_train_and_test_folders_are_kept_apart(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test")
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert (len(splits.train), len(splits.test)) == (8, 4)
    image_folder(("plum",), count=1, root=root / "test")
    with pytest.raises(UserError, match="'plum'"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


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


def test_transparency_is_drawn_on_white(image_folder, tmp_path):
    root = image_folder(count=2)
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(root / "pear" / "9.png")
    splits = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert max(image.min() for split in splits[:2] for image in split.images) == 255


def test_train_and_test_of_different_size(image_folder, tmp_path):
    root = tmp_path / "images"
    image_folder(count=4, root=root / "train")
    image_folder(count=2, root=root / "test", size=(28, 28))
    with pytest.raises(UserError, match=r"\(32, 32, 3\).*\(28, 28, 3\)"):
        load_splits(config_of(folder, tmp_path, dir=str(root), image_size=0))


def test_unreadable_images_are_named(image_folder, tmp_path):
    root = image_folder()
    (root / "pear" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"pear/lost\.png"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_description_of_tfds_is_named(fake_mnist, tmp_path, content):
    path, _ = fake_mnist
    (path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match="'mnist' in .* cannot be opened"):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


def test_changed_folder_is_read_again(image_folder, tmp_path):
    root = image_folder(count=4)
    first = load_splits(config_of(folder, tmp_path, dir=str(root)))
    Image.new("RGB", (32, 32)).save(root / "pear" / "0.png")
    second = load_splits(config_of(folder, tmp_path, dir=str(root)))
    assert first.fingerprint != second.fingerprint


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
    ("how", "says"), [("zero bytes", "empty"), ("truncated", "decoded"), ("text", "decoded"), ("16 bit", "8 bits")]
)
def test_a_broken_image_is_named(image_folder, tmp_path, how, says):
    root = image_folder()
    break_folder(root, how)
    with pytest.raises(UserError, match=rf"pear/3\.png.*{says}"):
        load_splits(config_of(folder, tmp_path, dir=str(root)))


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


# --- Subsets and cache ------------------------------------------------------------------------------------------------


def test_subsets_are_seeded_and_mixed(fake_mnist, tmp_path):
    path, (full, _) = fake_mnist[0], fake_mnist[1].values()
    splits = load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1]), num_train=30, num_test=5))
    assert (len(splits.train), len(splits.test)) == (30, 5)
    assert not np.array_equal(splits.train.images, full[0][:30])


def test_rendered_keeps_its_style_factors_through_the_cache(tmp_path):
    config = config_of(rendered, tmp_path, "tiny")
    first, second = load_splits(config), load_splits(config)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    factors = rendered_data.Factors(**second.train.factors)
    np.testing.assert_array_equal(rendered_data.render(factors, second.train.labels), second.train.images)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "header", "empty", "not an archive"])
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, damage):
    config = config_of(rendered, tmp_path, "tiny")
    good = load_splits(config)
    (file,) = tmp_path.glob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "bit flipped":
        content[len(content) // 2] ^= 1
    elif damage == "header":
        content[content.rfind(b"PK\x01\x02") + 6] ^= 0x80  # 'needs version ... to extract'
    else:
        content = b"" if damage == "empty" else b"something else"
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        again = load_splits(config)
    np.testing.assert_array_equal(again.train.images, good.train.images)
    load_splits(config)  # no warning any more: the file is whole again


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be cached"):
        splits = load_splits(config_of(rendered, tmp_path / "file", "tiny"))
    assert len(splits.train) == 256
    assert os.listdir(tmp_path) == ["file"]
