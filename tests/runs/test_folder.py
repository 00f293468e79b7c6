import contextlib
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
from infoae_jax.runs.folder import RunInfo, is_locked, lock, open_run, read_info
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


def test_a_run_of_format_1_is_still_read(tmp_path, info):
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    record["format"] = 1
    del record["config"]["train"]["dtype"], record["config"]["train"]["steps_per_call"], record["config"]["evaluate"]
    del record["config"]["alignment"], record["config"]["refine"], record["config"]["model"]["couplings"]
    del record["config"]["model"]["coupling_hidden"]
    del record["config"]["train"]["cycle_weight"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    read = read_info(tmp_path)
    assert read.config.model.couplings == read.config.refine.epochs == 0  # there was neither
    same = {name: getattr(info.config, name) for name in ("model", "train", "alignment", "refine")}
    assert dataclasses.replace(read, config=dataclasses.replace(read.config, **same)) == info
    record["format"] = 99
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="newer version"):
        read_info(tmp_path)


@pytest.mark.parametrize(("number", "weight"), [(7, 0.0), (8, 0.03)])
def test_a_cycle_weight_of_format_7_was_of_another_loss(tmp_path, info, number, weight):
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    record["format"], record["config"]["train"]["cycle_weight"] = number, 0.03
    del record["config"]["refine"]["content_noise"], record["config"]["train"]["content_shift"]
    del record["config"]["model"]["reference_couplings"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    read = read_info(tmp_path)
    config = read.config
    assert read.gone == (() if weight else ("train.cycle_weight: 0.03",))
    assert (config.train.cycle_weight, config.refine.content_noise) == (weight, 0.0)
    assert (config.train.content_shift, config.model.reference_couplings) == (0, 10)


@pytest.mark.parametrize(
    ("latent", "couplings", "refused"), [("ball", 2, True), ("ball", 0, False), ("sphere", 2, False)]
)
def test_a_model_that_is_no_more_is_refused(tmp_path, info, latent, couplings, refused):
    """Until format 12, the latent of the ball could be aligned as the decoder gets it."""
    model = dataclasses.replace(info.config.model, couplings=couplings, latent=latent)
    info = dataclasses.replace(info, config=dataclasses.replace(info.config, model=model))
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    record["format"], record["config"]["model"]["unfold"] = 11, False
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="unfold: False is no longer") if refused else contextlib.nullcontext():
        assert read_info(tmp_path) == info
    record["config"]["model"]["unfold"] = True
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert read_info(tmp_path) == info


@pytest.mark.parametrize(
    ("number", "section", "name", "couplings", "value", "gone"),
    [
        (10, "alignment", "transport", 2, 0.0, ()),
        (10, "alignment", "transport", 2, 0.03, ("alignment.transport: 0.03",)),
        (10, "alignment", "transport", 0, 0.03, ()),
        (12, "train", "clip_norm", 0, 0.0, ()),
        (12, "train", "clip_norm", 0, 1.0, ("train.clip_norm: 1.0",)),
        (12, "train", "lambda_schedule", 0, "linear", ()),
        (12, "train", "lambda_schedule", 0, "dann", ("train.lambda_schedule: 'dann'",)),
    ],
)
def test_a_setting_that_is_no_more_is_read_but_is_another_experiment(
    tmp_path, info, number, section, name, couplings, value, gone
):
    model = dataclasses.replace(info.config.model, couplings=couplings)
    info = dataclasses.replace(info, config=dataclasses.replace(info.config, model=model))
    open_run(tmp_path, info, "1 x cpu")
    record = json.loads((tmp_path / "config.json").read_text())
    record["format"], record["config"][section][name] = number, value
    (tmp_path / "config.json").write_text(json.dumps(record))
    read = read_info(tmp_path)
    assert read == dataclasses.replace(info, gone=gone)
    with pytest.raises(UserError, match=f"{name}: {value!r}") if gone else contextlib.nullcontext():
        open_run(tmp_path, info, "1 x cpu")


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
