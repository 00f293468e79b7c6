import pytest

from infoae_jax.cli.main import main

SWAP = ["--content=7", "--out=x.png"]
OPTIONS = [
    ("--style", ["transfer", "mnist", *SWAP, "--style"]),
    ("--out", ["transfer", "mnist", "--style=a.png", "--content=7", "--out"]),
    ("--from", ["interpolate", "mnist", "--to=a.png", *SWAP, "--from"]),
    ("--to", ["interpolate", "mnist", "--from=a.png", *SWAP, "--to"]),
    ("--out", ["export", "mnist", "--to=npz", "--out"]),
    ("--data_dir", ["export", "mnist", "--to=npz", "--data_dir"]),
    ("--data_dir", ["demo", "mnist", "--data_dir"]),
    ("--data_dir", ["evaluate", "run", "--data_dir"]),
    ("--out", ["evaluate", "run", "--out"]),
    ("RUN", ["evaluate"]),
    ("RUN", ["report"]),
    ("--out", ["report", "run", "--out"]),
]


@pytest.mark.parametrize(("option", "words"), OPTIONS)
@pytest.mark.parametrize("value", ["gs://bucket/x.png", "file:///x.npz", "", "x" * 300 + ".png", "a.png\n"])
def test_every_option_names_itself_if_its_path_cannot_be(option, words, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*words, value])
    assert stop.value.code == 2
    assert f"argument {option}: the path is " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["export", "--to=npz"], ["demo"], ["transfer", "--style=.", *SWAP]])
@pytest.mark.parametrize("value", ["gs://bucket/run", "", "x" * 300])
def test_a_model_that_cannot_be_is_refused(words, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([words[0], value, *words[1:]]) == 2
    assert "the model is " in capsys.readouterr().err


def test_home_is_where_the_shell_left_a_tilde(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["report", "~/runs/x"]) == 2
    assert str(tmp_path / "home" / "runs" / "x") in capsys.readouterr().err
