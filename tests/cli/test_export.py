import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import infoae_jax
from infoae_jax.cli.main import main
from infoae_jax.errors import UserError
from infoae_jax.inference import run_data
from infoae_jax.inference.npz import read_npz
from infoae_jax.inference.stablehlo import FUNCTIONS
from infoae_jax.inference.styles import NUM_EXPORTED_LATENTS, STYLE_BANK_FILE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(monkeypatch, tmp_path, capsys, devices_are_set_up):
    """Runs `infoae export` in `tmp_path`; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["export", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_a_run_is_exported_with_style_latents_and_examples_and_loads_again(untrained, export, tmp_path):
    def leaves(model):
        return jax.tree.leaves(model.variables["params"]["style_encoder"])

    mine = infoae_jax.load(untrained)
    code, printed = export(untrained, "--to=npz", "--out=mine.npz", "--examples=20")
    assert code == 0
    assert "mine.npz  (" in printed
    extras = read_npz(tmp_path / "mine.npz").extras
    assert extras["examples/labels"].tolist() == [*range(10)] * 2
    theirs = infoae_jax.load("mine.npz")
    assert theirs.step == mine.step == 8
    for a, b in zip(leaves(theirs), leaves(mine), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(theirs.style_bank.z, mine.style_bank.z[:NUM_EXPORTED_LATENTS])
    assert theirs.classes == mine.classes
    # An export can be exported again, and is not overwritten by accident.
    assert export("mine.npz", "--to=npz", "--dtype=float16", "--out=half.npz")[0] == 0
    assert (tmp_path / "half.npz").stat().st_size < 0.6 * (tmp_path / "mine.npz").stat().st_size
    assert set(read_npz(tmp_path / "half.npz").extras) == set(extras)
    before = (tmp_path / "half.npz").read_bytes()
    code, printed = export("mine.npz", "--to=npz", "--out=half.npz")
    assert (code, "exists" in printed) == (2, True)
    assert (tmp_path / "half.npz").read_bytes() == before
    assert export("mine.npz", "--to=npz", "--out=half.npz", "--force")[0] == 0
    assert (tmp_path / "half.npz").read_bytes() != before
    with pytest.raises(UserError, match="holds a single step"):
        infoae_jax.load("mine.npz", step=3)


def test_programs_are_exported_once_unless_forced(untrained, export, tmp_path):
    assert export(untrained, "--to=stablehlo", "--out=programs") == (0, "programs\n")
    assert {p.name for p in (tmp_path / "programs").iterdir()} == {f"{n}.stablehlo" for n in FUNCTIONS} | {
        "description.json"
    }
    description = json.loads((tmp_path / "programs" / "description.json").read_text())
    assert (description["step"], description["latent"]["size"]) == (8, 32)
    code, printed = export(untrained, "--to=stablehlo", "--out=programs")
    assert (code, "exists. Choose another --out, or replace it with --force" in printed) == (2, True)
    (tmp_path / "programs" / "mine.txt").touch()
    code, printed = export(untrained, "--to=stablehlo", "--out=programs", "--force")
    assert (code, "holds more than an earlier export" in printed) == (2, True)


def test_the_data_set_is_looked_for_where_it_is_said_to_be(untrained, export, tmp_path, monkeypatch):
    copy = shutil.copytree(untrained, tmp_path / "copy", ignore=shutil.ignore_patterns(STYLE_BANK_FILE))

    def lost(config, prepare=True):
        raise UserError(f"Nothing in {config.dir!r} (prepare: {prepare}).")

    monkeypatch.setattr(run_data, "load_splits", lost)
    code, printed = export(copy, "--to=npz", "--data_dir=moved")
    assert code == 0
    assert re.search(r"Without style latents to sample from: .*Nothing in 'moved' \(prepare: False\)", printed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing", "--to=npz"], "called 'nothing'"),
        ([".", "--to=npz", "--out=x.npz"], "not a run folder"),
        (["a.npz", "--to=npz"], "with --out"),
        (["a.npz", "--to=npz", "--out=x.txt"], "must end in .npz"),
        (["a.npz", "--to=npz", "--out=folder.npz", "--force"], "is a folder"),
        (["a.npz", "--to=stablehlo", "--out=x", "--step=3"], "holds a single step"),
        (["a.npz", "--to=npz", "--out=x.npz", "--examples=-1"], "--examples is -1"),
        (["a.npz", "--to=npz", "--out=x.npz"], "'a.npz' is damaged"),
        (["a.npz", "--to=npz", "--out=x.npz", "--examples=3"], "--examples is for run folders"),
        (["a.npz", "--to=stablehlo", "--out=x", "--examples=3"], "for --to npz"),
        (["a.npz", "--to=stablehlo", "--out=x", "--dtype=float32"], "for --to npz"),
    ],
)
def test_mistakes_are_answered_and_leave_nothing(export, tmp_path, words, sentence):
    (tmp_path / "a.npz").write_bytes(b"PK but no archive")
    (tmp_path / "folder.npz").mkdir()
    code, printed = export(*words)
    assert code == 2
    assert sentence in printed
    assert "Traceback" not in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "folder.npz"]


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before_without_any_traceback(
    untrained, tmp_path, child_environment
):
    run = shutil.copytree(untrained, tmp_path / "run")
    for file in (run / "checkpoints" / "8" / "state").rglob("d/*"):
        content = bytearray(file.read_bytes())
        for at in range(len(content) // 10, len(content), max(len(content) // 50, 1)):
            content[at] ^= 0xFF
        file.write_bytes(content)
    command = [sys.executable, "-m", "infoae_jax", "export", str(run), "--to=npz", f"--out={tmp_path / 'x.npz'}"]
    done = subprocess.run(command, env=child_environment, cwd=ROOT, capture_output=True, text=True, check=True)
    said = f"warning: The checkpoint of step 8 in {run} is damaged ("
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("); that of step 3 is used instead.\n")
    assert read_npz(tmp_path / "x.npz").model.step == 3
