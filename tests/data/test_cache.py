import os

import numpy as np
import pytest

from configs import rendered
from infoae_jax.data.load import load_splits
from infoae_jax.data.rendered import Factors, render
from tests.data_config import config_of


def test_rendered_images_keep_their_factors_through_the_cache(tmp_path):
    config = config_of(rendered, tmp_path, "tiny")
    first, second = load_splits(config), load_splits(config)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    factors = Factors(**second.train.factors)
    np.testing.assert_array_equal(render(factors, second.train.labels), second.train.images)
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
    load_splits(config)  # without a warning: the file is whole again


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be cached"):
        splits = load_splits(config_of(rendered, tmp_path / "file", "tiny"))
    assert len(splits.train) == 256
    assert os.listdir(tmp_path) == ["file"]


def test_a_cache_that_claims_more_than_it_has_takes_no_memory(tmp_path):
    config = config_of(rendered, tmp_path, "tiny")
    good = load_splits(config)
    (file,) = tmp_path.glob("*.npz")
    np.savez_compressed(file, **{"train/images": np.zeros(10**8, np.uint8)})
    with pytest.warns(UserWarning, match=r"damaged \(its arrays would take 100 MB, more than 0\)"):
        again = load_splits(config)
    np.testing.assert_array_equal(again.train.images, good.train.images)


def test_a_pipe_in_the_place_of_a_cache_is_not_waited_for(tmp_path):
    config = config_of(rendered, tmp_path, "tiny")
    load_splits(config)
    (file,) = tmp_path.glob("*.npz")
    file.unlink()
    os.mkfifo(file)
    load_splits(config)
    assert file.is_file()
