import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs import mnist, svhn
from infoae_jax.data import tfds
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from tests import tfds_files
from tests.data_config import config_of
from tests.shared_data import SHARED, needs_shared


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
    with pytest.raises(UserError, match=r"image 7 of mnist split 'train'.*cannot be read"):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


def test_unknown_split_and_unknown_name(fake_mnist, tmp_path):
    root = str(fake_mnist[0].parents[1])
    with pytest.raises(UserError, match=r"no split .trian..*train, test"):
        load_splits(config_of(mnist, tmp_path, dir=root, split="trian"))
    with pytest.raises(UserError, match=r"'train\[:0\]' of mnist is empty"):
        load_splits(config_of(mnist, tmp_path, dir=root, split="train[:0]"))
    with pytest.raises(UserError, match="'mnits'.*TFDS does not know"):
        load_splits(config_of(mnist, tmp_path, dir=root, name="mnits"))


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_description_of_tfds_is_named(fake_mnist, tmp_path, content):
    path, _ = fake_mnist
    (path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match="'mnist' in .* cannot be read .*damaged"):
        load_splits(config_of(mnist, tmp_path, dir=str(path.parents[1])))


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


@pytest.mark.slow
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
