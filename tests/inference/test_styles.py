import json
import os
import shutil

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import infoae_jax
from infoae_jax.data.load import load_splits
from infoae_jax.errors import UserError
from infoae_jax.inference import run_data
from infoae_jax.inference.styles import STYLE_BANK_FILE, nearest, resample


@pytest.fixture(scope="module")
def ring():
    """Latents on a circle: none lies near its middle."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 500)
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1).astype(np.float32)


def test_nearest_is_what_a_plain_search_finds(ring):
    queries = np.random.default_rng(1).normal(size=(1500, 3)).astype(np.float32)
    found = nearest(queries, ring, 4)
    distances = cdist(queries, ring)
    np.testing.assert_allclose(found.distances, np.sort(distances, 1)[:, :4], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(distances, found.rows, 1), found.distances, atol=1e-4)


def test_of_equally_distant_rows_the_first_are_the_nearest(ring):
    among = np.concatenate([ring[:50]] * 3)[::-1]
    found = nearest(ring[:50], among, 2)
    np.testing.assert_array_equal(found.rows, np.stack([np.arange(49, -1, -1), np.arange(99, 49, -1)], axis=1))


def test_new_latents_lie_where_latents_are_and_are_new(ring):
    new = resample(ring, 2000, seed=3)
    assert new.dtype == np.float32
    radius = np.linalg.norm(new, axis=1)
    assert 0.98 < radius.min() <= radius.max() < 1.0001  # noise on each dimension would leave the circle
    assert cdist(new, ring).min(1).mean() > 1e-4
    np.testing.assert_allclose(new.mean(0), ring.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(new.T), np.cov(ring.T), atol=0.04)


def test_few_latents_will_do(ring):
    np.testing.assert_array_equal(resample(ring[:1], 3), ring[[0, 0, 0]])
    two = resample(ring[:2], 50)
    low, high = ring[:2].min(0), ring[:2].max(0)
    assert ((two >= low - 1e-6) & (two <= high + 1e-6)).all()


# --- The bank of a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(untrained, tmp_path, one_device):
    return shutil.copytree(untrained, tmp_path / "copy", ignore=shutil.ignore_patterns(STYLE_BANK_FILE))


def lose_data(monkeypatch):
    """From now on no data set is found. Returns where it will be looked for, and whether it may be prepared."""
    asked = []

    def load_splits(config, prepare=True):
        asked.append((config.dir, prepare))
        raise UserError("There are no data any more.")

    monkeypatch.setattr(run_data, "load_splits", load_splits)
    return asked


def test_a_style_bank_is_kept_with_the_run(copy, monkeypatch):
    model = infoae_jax.load(copy)
    train = load_splits(model.info.config.data).train
    first = model.style_bank
    assert first.z.shape == (256, 32)
    order = np.random.default_rng(0).permutation(256)
    expected = model.encode(train.images[order[:5]], train.labels[order[:5]])
    np.testing.assert_allclose(first.z[:5], expected, atol=1e-5)
    np.testing.assert_array_equal(first.labels, train.labels[order])

    lose_data(monkeypatch)
    np.testing.assert_array_equal(infoae_jax.load(copy).style_bank.z, first.z)  # from the file
    with pytest.raises(UserError, match=r"no style latents yet.*no data any more"):
        infoae_jax.load(copy, 3).style_bank  # noqa: B018 (that of another checkpoint is not taken for its own)
    (copy / STYLE_BANK_FILE).write_bytes((copy / STYLE_BANK_FILE).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"no style latents yet.*no data any more"):
        infoae_jax.load(copy).style_bank  # noqa: B018


def test_a_style_bank_is_made_from_data_where_they_are_now_and_never_from_a_download(copy, monkeypatch):
    asked = lose_data(monkeypatch)
    with pytest.raises(UserError, match="no data any more"):
        infoae_jax.load(copy, data_dir="moved").style_bank  # noqa: B018
    assert asked == [("moved", False)]


def test_no_style_bank_is_made_from_other_images(copy):
    record = json.loads((copy / "config.json").read_text())
    record["data"]["fingerprint"] = "another"
    (copy / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="not those that the run was trained on"):
        infoae_jax.load(copy).sample(1)


@pytest.mark.parametrize("damage", ["nan", "inf", "size", "label", "rows", "huge", "array", "pipe"])
def test_a_style_bank_that_does_not_fit_is_made_again(copy, damage):
    first, path = infoae_jax.load(copy).style_bank, copy / STYLE_BANK_FILE
    z, labels = first.z.copy(), first.labels.copy()
    if damage in ("nan", "inf"):
        z[3, 4] = float(damage)
    elif damage == "size":
        z = z[:, 1:]
    elif damage == "label":
        labels[5] = 10
    elif damage == "rows":
        z = z[1:]
    path.unlink()
    if damage == "huge":
        np.savez_compressed(path, step=8, z=np.zeros((10**6, 32), np.float32), labels=np.zeros(10**6, np.int32))
    elif damage == "array":
        with open(path, "wb") as file:
            np.save(file, z)
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        np.savez(path, step=8, z=z, labels=labels)
    np.testing.assert_array_equal(infoae_jax.load(copy).style_bank.z, first.z)
