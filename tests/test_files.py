import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoae_jax.errors import UserError
from infoae_jax.files import cache_folder, replacing, user_path, write_atomically


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_nothing_is_left_of_what_cannot_be_written(tmp_path):
    def write():
        with replacing(tmp_path / "x") as file:
            file.write(b"new")
            os.close(file.fileno())

    with pytest.raises(OSError, match="Bad file descriptor"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_was_written(tmp_path):
    write_atomically(tmp_path / "x", b"new")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_cache_folder_is_where_the_system_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "infoae_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().is_relative_to(tmp_path / "home")


def test_without_a_home_nothing_can_be_cached_nor_in_a_folder_called_tilde(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder().mkdir(parents=True)
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "--out is '', but must name"),
        ("  ", "must name a file or folder"),
        ("gs://bucket/run", "on this machine"),
        ("file:///tmp/run", "on this machine"),
        (Path("s3://bucket/run"), "on this machine"),
        ("runs/mnist\n", "line breaks"),
        ("a\0b", "control characters"),
        ("\ud800", "cannot be a path"),
        ("~nobody-has-this-name/run", "cannot be a path"),
        ("x" * 300, "--out is 'x.*is too long"),
        ("é" * 130, "too long"),
        ("x/" * 2000, "too long"),
    ],
)
def test_what_cannot_be_a_path_is_refused_with_its_name(given, says):
    with pytest.raises(UserError, match=says) as caught:
        user_path(given, "--out")
    assert "--out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_begin_at_home_or_where_they_say(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs", "run") == user_path(Path("~/runs"), "run") == tmp_path / "runs"
    for text in ("runs/mnist", "/tmp/x y", "C:/runs", "a:b", ".", "..", "lr=0.1,seed=0", "Größe", "x~"):
        assert user_path(text, "run") == Path(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_path_that_can_be_looked_at_or_is_refused(text):
    with contextlib.suppress(UserError):
        path = user_path(text, "run")
        path.exists()
        (path / "checkpoints" / ("x" * 200)).exists()


def test_a_file_with_a_long_name_is_written(tmp_path):
    for name in ("x" * 255, "é" * 127):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
