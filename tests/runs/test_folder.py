import contextlib
import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from infoae_jax.errors import BusyError, UserError
from infoae_jax.runs import folder as folder_module
from infoae_jax.runs.folder import FORMAT, RunInfo, is_locked, lock, open_run, parse_record, read_info


@pytest.fixture
def info(tiny_config):
    return RunInfo(tiny_config, (32, 32, 3), tuple("0123456789"), 256, 64, "abc")


def test_info_survives_the_file(tmp_path, info):
    open_run(tmp_path, info, "1 x cpu")
    assert read_info(tmp_path) == info
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["environment"]["jax"]
    assert record["environment"]["code"]["source"]
    open_run(tmp_path, info, "1 x cpu")  # the same again is fine


@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1, None])
def test_another_format_is_refused_with_advice(tmp_path, info, number):
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    record["format"] = number
    (tmp_path / "config.json").write_text(json.dumps(record))
    says = (
        rf"config\.json' describes a run in format {number}, but .* reads format {FORMAT} only\. Use the version that"
    )
    with pytest.raises(UserError, match=says):
        read_info(tmp_path)
    with pytest.raises(UserError, match=says):
        open_run(tmp_path, info, "1 x cpu")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda record: record["config"]["train"].update(epochs=0),
            "is damaged or was changed: config.train.epochs is 0",
        ),
        (lambda record: record.pop("data"), "is damaged or was changed: .* missing required field `data`"),
        (lambda record: record["data"].update(class_names=7), "is damaged or was changed: Expected `array`"),
        (lambda record: record["data"].update(class_names=[]), "is damaged or was changed: .* length >= 2"),
        (lambda record: record["data"].update(class_names=["a", "a"]), ".* two classes have the same name"),
        (lambda record: record["data"].update(image_shape=[28, 28]), "is damaged or was changed: .* length 3"),
        (lambda record: record["data"].update(image_shape=[28, 30, 1]), ".* Images of 28x30 pixels are not supported"),
        (lambda record: record["data"].update(image_shape=[28, 10**400, 1]), "is damaged or was changed: "),
    ],
)
def test_a_damaged_record_is_refused_by_its_name(tmp_path, info, change, says):
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    change(record)
    with pytest.raises(UserError, match=f"somewhere/config.json' {says}"):
        parse_record(record, "somewhere/config.json")


def test_another_experiment_is_refused_and_nothing_changes(tmp_path, info):
    open_run(tmp_path, info, "1 x cpu")
    before = (tmp_path / "config.json").read_bytes()
    train = dataclasses.replace(info.config.train, lambda_adv=0.7, epochs=9)
    other = dataclasses.replace(info, config=dataclasses.replace(info.config, train=train))
    with pytest.raises(UserError, match=r"(?s)train\.epochs: 2 -> 9.*train\.lambda_adv: 0\.003 -> 0\.7"):
        open_run(tmp_path, other, "1 x cpu")
    with pytest.raises(UserError, match="started with other images"):
        open_run(tmp_path, dataclasses.replace(info, fingerprint="def"), "1 x cpu")
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_with_other_things_is_refused(tmp_path, info):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty and not a run"), lock(tmp_path):
        open_run(tmp_path, info, "1 x cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError), lock(tmp_path / "fresh"):
        raise UserError
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", "[" * 100_000, '{"config": {}, "data": {}}'])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json|config\."):
        read_info(tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        read_info(tmp_path / "nowhere")


def _hold(folder, results):
    with lock(folder):
        results.put("locked")
        time.sleep(600)


def test_two_trainings_do_not_share_a_folder_and_a_kill_frees_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_hold, args=(tmp_path, results))
    process.start()
    assert results.get(timeout=60) == "locked"
    assert is_locked(tmp_path)
    with pytest.raises(BusyError, match="Another process is training"), lock(tmp_path):
        pass
    process.kill()
    process.join()
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)


def test_who_asks_whether_a_folder_is_locked_stops_no_training_and_leaves_no_trace(tmp_path, info, monkeypatch):
    assert not is_locked(tmp_path / "nowhere")
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
    with lock(tmp_path):
        assert is_locked(tmp_path)
        open_run(tmp_path, info, "cpu")
    assert not is_locked(tmp_path)
    asking = FileLock(tmp_path / ".lock", thread_local=False)
    asking.acquire()
    threading.Timer(0.03, asking.release).start()
    monkeypatch.setattr(folder_module, "_LOCK_SECONDS", 5.0)  # a busy machine may start the timer late
    with lock(tmp_path):
        pass


def test_only_one_holds_the_lock_although_those_that_are_refused_remove_its_file(tmp_path):
    inside, most, times = [], [], []

    def train():
        for _ in range(30):
            with contextlib.suppress(BusyError), lock(tmp_path / "run"):  # never becomes a run
                inside.append(1)
                time.sleep(0.001)
                most.append(len(inside))
                inside.pop()
                times.append(1)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) > 30
    assert max(most) == 1


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS])
def test_file_systems_without_locks_are_not_called_busy(tmp_path, monkeypatch, answer):
    def flock(*_):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", flock)
    says = rf"cannot be written or locked .*{os.strerror(answer)}.* file system that can lock files"
    with pytest.raises(UserError, match=says) as caught, lock(tmp_path):
        pass
    assert not isinstance(caught.value, BusyError)
    assert not is_locked(tmp_path)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("nowhere")
    for folder in (tmp_path / "file" / "run", tmp_path / "file", tmp_path / "link"):
        with pytest.raises(UserError, match="cannot be written") as caught, lock(folder):
            pass
        assert not isinstance(caught.value, BusyError)


def test_a_folder_that_vanishes_while_it_is_made_is_busy(tmp_path, monkeypatch):
    """As when a process that was refused this moment removes it: mkdir finds it, and then does not."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "is_dir", lambda *_: False)
    with pytest.raises(BusyError), lock(tmp_path / "run"):
        pass


def test_a_kill_while_config_json_is_written_leaves_a_usable_folder(tmp_path, info):
    (tmp_path / ".config.json-abc").write_text("{")
    open_run(tmp_path, info, "1 x cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
