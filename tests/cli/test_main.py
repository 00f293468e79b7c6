import subprocess
import sys
from pathlib import Path

import pytest

from infoae_jax.cli import demo, evaluate, export, interpolate, report, train, transfer
from infoae_jax.cli.main import main

ROOT = Path(__file__).parents[2]
COMMANDS = {"transfer": transfer, "interpolate": interpolate, "demo": demo, "export": export}
WITH_EXAMPLES = {**COMMANDS, "evaluate": evaluate, "report": report}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_help_has_examples_that_are_understood(name, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    examples = [line.split("  ")[0].split() for line in lines if line.startswith(f"infoae {name} ")]
    assert examples
    called = []
    monkeypatch.setattr(WITH_EXAMPLES[name], "run", called.append)
    for words in examples:
        assert main(words[1:]) == 0
    assert len(called) == len(examples)


def test_the_examples_of_all_commands_are_understood(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])  # which `train` changes
    assert main([]) == 2
    text = capsys.readouterr().err
    lines = [line.strip() for line in text.splitlines()]
    examples = [line.split("  ")[0].split() for line in lines if line.startswith("infoae ")]
    called = []
    for command in (*COMMANDS.values(), evaluate, report):
        monkeypatch.setattr(command, "run", called.append)
    monkeypatch.setattr(train, "launch", lambda: called.append(sys.argv) or 0)
    for words in examples:
        assert main(words[1:]) == 0
    assert {words[1] for words in examples} == {*COMMANDS, "evaluate", "report", "train", "sweep"}
    assert len(called) == len(examples)


@pytest.mark.parametrize("words", [["transfer"], ["transfer", "RUN", "--style"], ["dance"]])
def test_what_is_no_command_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: infoae" in capsys.readouterr().err


def test_as_a_program(untrained, tmp_path):
    words = ["transfer", str(untrained), "--style=nothing.png", "--content=7", f"--out={tmp_path / 'x.png'}"]
    command = [sys.executable, "-m", "infoae_jax", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr == "error: There is no file or folder 'nothing.png'.\n"


def test_help_and_mistakes_are_answered_without_jax():
    code = """
import sys
from infoae_jax.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
image = "README.md"
for words in (
    ["transfer", "nothing", "--style", image, "--content=7", "--out=x.png"],
    ["interpolate", "nothing", "--from", image, "--to", image, "--content=7", "--out=x.png"],
    ["demo", "nothing"],
    ["export", "nothing", "--to=npz"],
):
    assert main(words) == 2
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_pretrained_model_cannot_be_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "mnist"]) == 2
    assert "is a pretrained model, which has no checkpoint" in capsys.readouterr().err


def test_sweep_is_train_with_its_flag(monkeypatch):
    called = []
    monkeypatch.setattr(train, "launch", lambda: called.append(sys.argv) or 0)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", None)
    assert main(["sweep", "--config=mnist", "--sweep_list"]) == 0
    assert called == [["infoae sweep", "--sweep", "--config=mnist", "--sweep_list"]]
