"""A training that several modules compare with."""

import shutil

import pytest

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.training.fit import fit


@pytest.fixture(scope="session")
def trained_once(cache, tmp_path_factory):
    """What `fit` returns for `tiny_config`, and its run folder; not to change."""
    values = rendered.get_config("tiny")
    values.data.cache_dir = str(cache)
    folder = tmp_path_factory.mktemp("trained_once") / "run"
    return fit(parse(values), folder), folder


@pytest.fixture
def whole(trained_once, tmp_path):
    """What `fit` returns for `tiny_config`, and its run folder as `tmp_path / "whole"`."""
    result, folder = trained_once
    shutil.copytree(folder, tmp_path / "whole")
    return result
