"""Damaged files of a run, a sweep or an export: they are read all the same, or a sentence says which is damaged."""

import collections
import contextlib
import copy
import json
import random
import shutil
import signal
import warnings

import numpy as np
import pytest

import infoae_jax
from infoae_jax.errors import UserError
from infoae_jax.inference.load import load_bundle
from infoae_jax.inference.npz import write_npz
from infoae_jax.reports.run import write_run_report
from infoae_jax.reports.sweep import write_sweep_report
from infoae_jax.runs.metrics import append_metrics
from infoae_jax.training.fit import fit
from tests.report_folders import make_run, make_sweep

COPIES = 300
SECONDS = 20  # for one reading
VALUES = (None, True, -1, 0, 10**30, 1e308, float("nan"), "", "text", [], {}, [[]], {"a": None})


def mutate(data, rng):
    """Bytes changed, cut, added or removed; of JSON, half of the times a value replaced, renamed or taken away."""
    with contextlib.suppress(ValueError):
        if rng.random() < 0.5:
            lines = data.decode().splitlines()
            if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines):  # JSON lines
                number = rng.randrange(len(lines))
                lines[number] = change_json(json.loads(lines[number]), rng)
                return "\n".join([*lines, ""]).encode()
            return change_json(json.loads(data), rng).encode()
    at = rng.randrange(len(data) + 1)
    end = min(at + rng.choice((1, 1, 2, 16, 1000)), len(data))
    middle = rng.choice((b"", rng.randbytes(end - at), b"\xff" * (end - at), b"\0" * (end - at), data[at:end] * 2))
    return rng.choice((data[:at] + middle + data[end:], data[:at], rng.randbytes(len(data)), data[:at] + middle))


def change_json(value, rng):
    value = copy.deepcopy(value)
    tree = {"": value}
    key = ""
    while isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.8:
        tree = tree[key]
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    how = rng.choice(("replace", "replace", "remove", "rename"))
    if key == "" or how == "replace" or isinstance(tree, list):
        new = rng.choice(VALUES)
        if key == "":
            return json.dumps(new)
        tree[key] = new
    else:
        found = tree.pop(key)
        if how == "rename":
            tree[f"{key}x"] = found
    return json.dumps(value)


@contextlib.contextmanager
def time_limit():
    def stop(*_):
        raise TimeoutError(f"not read within {SECONDS} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def check(path, read, copies=COPIES):
    """Reads `copies` mutated copies of a file; all that may be raised is a `UserError`."""
    sound, rng, outcomes = path.read_bytes(), random.Random(path.name), collections.Counter()
    for number in range(copies):
        path.write_bytes(mutated := mutate(sound, rng))
        try:
            with time_limit(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"copy {number} of {path.name}: {mutated[:300]!r}") from error
    path.write_bytes(sound)
    read()
    print(f"{path.name}: {copies} copies, {dict(outcomes)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluation_quick.json", "samples/epoch_0003.png"])
def test_a_report_of_a_run(tiny_config, tmp_path, name):
    run = make_run(tmp_path / "run", tiny_config)
    append_metrics(run, "end", step=12, time="2020-01-01T00:00:00Z")
    check(run / name, lambda: write_run_report([run], tmp_path / "page.html"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluation_quick.json", "failed.json"])
def test_a_page_of_a_sweep_shows_the_other_trials(tiny_config, tmp_path, name):
    trials = [({"train.lambda_adv": lam}, (0.5, 0.02)) for lam in (0.0, 0.01)]
    folder = make_sweep(tmp_path / "sweep", tiny_config, *trials, ({"train.lambda_adv": 0.1}, "it diverged"))
    trial = next(path.parent for path in sorted(folder.glob(f"*/{name}")))

    def read():
        text = write_sweep_report(folder).read_text()
        assert "lambda_adv=0.01" in text
        for line in (folder / "sweep.jsonl").read_text().splitlines():
            json.loads(line)

    check(trial / name, read)


@pytest.mark.slow
def test_a_run_is_loaded(untrained, tmp_path, one_device):
    run = tmp_path / "run"
    shutil.copytree(untrained, run)
    z = infoae_jax.load(run).style_bank.z
    files = sorted(p for p in (run / "checkpoints" / "8").rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 3

    def read():
        model = infoae_jax.load(run)
        assert np.isfinite(model.decode(z[:1], [0])).all()

    def read_bank():
        assert infoae_jax.load(run).style_bank.z.shape == z.shape

    check(run / "config.json", read)
    check(run / "styles.npz", read_bank)
    for file in files:
        check(file, read)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "newest checkpoint"])
def test_a_run_is_resumed(tiny_config, tmp_path, name):
    settings, run = tiny_config, tmp_path / "run"
    fit(settings, run)
    path = run / name
    if name == "newest checkpoint":
        newest = max((run / "checkpoints").iterdir(), key=lambda p: int(p.name))
        path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    sound = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def read():
        try:
            assert fit(settings, run).finished
        finally:
            for other, data in sound.items():
                if other != path:
                    other.parent.mkdir(parents=True, exist_ok=True)
                    other.write_bytes(data)
            path.parent.mkdir(parents=True, exist_ok=True)
            for moved in run.glob("damaged_checkpoint_*"):
                shutil.rmtree(moved)

    check(path, read, COPIES // 10)


@pytest.mark.slow
def test_an_exported_file_is_loaded(untrained, tmp_path, one_device):
    bundle = load_bundle(untrained)
    z, labels = bundle.model.style_bank
    bundle.extras.update({"styles/z": z[:20], "styles/labels": labels[:20]})
    path = tmp_path / "model.npz"
    write_npz(path, bundle, "float32")
    check(path, lambda: infoae_jax.load(path))
