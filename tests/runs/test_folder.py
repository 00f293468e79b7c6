import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest

from infoae_jax.errors import BusyError, UserError
from infoae_jax.files import write_atomically
from infoae_jax.runs import folder as folder_module
from infoae_jax.runs import provenance
from infoae_jax.runs.folder import FORMAT, RunInfo, is_locked, lock, open_run, parse_record, read_info
from infoae_jax.runs.metrics import append_metrics, read_metrics
from infoae_jax.runs.provenance import code_version


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


@pytest.mark.parametrize("number", [13, 15, None])
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
        (lambda record: record["config"]["train"].update(epochs=0), "cannot be used: config.train.epochs is 0"),
        (lambda record: record.pop("data"), r"cannot be read \(KeyError\('data'\)\)"),
        (lambda record: record["data"].update(class_names=7), "cannot be read"),
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
    with pytest.raises(UserError, match=r"(?s)train\.epochs: 2 -> 9.*train\.lambda_adv: 0\.001 -> 0\.7"):
        open_run(tmp_path, other, "1 x cpu")
    with pytest.raises(UserError, match="images themselves"):
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


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {}, "data": {}}'])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json|config\."):
        read_info(tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        read_info(tmp_path / "nowhere")


def test_lines_are_appended_and_read_back_once(tmp_path):
    append_metrics(tmp_path, "epoch", step=1, loss=1.5)
    append_metrics(tmp_path, "epoch", step=2, loss=float("nan"))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "epoch", "st')  # killed here
    append_metrics(tmp_path, "epoch", step=2, loss=0.5)
    for kind in ("stop", "refine"):
        for _ in range(2):
            append_metrics(tmp_path, kind, step=2)
    assert read_metrics(tmp_path, "epoch") == [
        {"kind": "epoch", "step": 1, "loss": 1.5},
        {"kind": "epoch", "step": 2, "loss": 0.5},
    ]
    assert len(read_metrics(tmp_path)) == 5
    assert len(read_metrics(tmp_path, "refine")) == 1
    assert read_metrics(tmp_path / "nowhere") == []
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[1])["loss"] == "nan"


def _try_lock(folder, results):
    try:
        with lock(folder):
            results.put("locked")
    except UserError as error:
        results.put(str(error))


def test_two_trainings_do_not_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with lock(tmp_path):
        process = context.Process(target=_try_lock, args=(tmp_path, results))
        process.start()
        assert "Another process is training" in results.get(timeout=60)
        process.join()
    _try_lock(tmp_path, results)
    assert results.get(timeout=60) == "locked"


def test_who_asks_whether_a_folder_is_locked_stops_no_training_and_leaves_no_trace(tmp_path, info):
    assert not is_locked(tmp_path / "nowhere")
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
    with lock(tmp_path):
        assert is_locked(tmp_path)
        open_run(tmp_path, info, "cpu")
    assert not is_locked(tmp_path)
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # somebody asks just now
        threading.Timer(0.03, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with lock(tmp_path):
            pass


def test_a_lock_file_that_was_removed_before_it_was_locked_is_not_held(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def after_the_other_has_gone(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_the_other_has_gone)
    with lock(tmp_path):
        assert len(calls) == 2
        assert is_locked(tmp_path)


def test_file_systems_without_locks_are_not_called_busy(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    says = r"cannot be locked .*No locks available.*another one"
    with pytest.raises(UserError, match=says) as caught, lock(tmp_path):
        pass
    assert not isinstance(caught.value, BusyError)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"), lock(tmp_path / "file" / "run"):
        pass


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


def test_code_version_changes_with_the_source(tmp_path, monkeypatch):
    here = code_version()
    assert here == code_version()
    shutil.copytree(Path(folder_module.__file__).parents[1], tmp_path / "infoae_jax")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "infoae_jax" / "runs" / "provenance.py"))
    assert code_version()["source"] == here["source"]
    assert "commit" not in code_version()
    with open(tmp_path / "infoae_jax" / "models" / "reversal.py", "a") as file:
        file.write("# changed")
    assert code_version()["source"] != here["source"]


def test_a_kill_while_config_json_is_written_leaves_a_usable_folder(tmp_path, info):
    (tmp_path / ".config.json-abc").write_text("{")
    open_run(tmp_path, info, "1 x cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
