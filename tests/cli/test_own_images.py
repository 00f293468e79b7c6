"""The walk-through of docs/pages/own-images.md, from images to swaps of them, with fewer images and `:tiny`."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import folder
from infoae_jax.cli.main import main
from infoae_jax.config import parse
from infoae_jax.devices import setup as device_setup
from infoae_jax.runs.folder import read_info
from infoae_jax.training.fit import fit

PAGE = (Path(__file__).parents[2] / "docs/pages/own-images.md").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device_setup, "set_up", lambda *_: None)  # too late in this process
    return tmp_path


@pytest.mark.slow
def test_from_a_folder_to_swaps(here, one_device, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert "ABCDEFGH" in code
    assert "range(500)" in code
    exec(code.replace("range(500)", "range(10)"), {})

    commands = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("    ") and " --" in line]
    training, transfer, evaluation = (words for words in commands if words[0] in ("python", "infoae"))
    assert training[:3] == ["python", "launch.py", "--config=configs/folder.py"]
    options = dict(word.removeprefix("--").split("=") for word in training[3:])
    workdir = options.pop("workdir")
    values = folder.get_config("tiny")
    values.update_from_flattened_dict({name.removeprefix("config."): value for name, value in options.items()})
    values.data.cache_dir = str(here / "cache")
    values.train.epochs, values.log.sample_epochs = 1, ()
    assert fit(parse(values), workdir).finished
    assert read_info(workdir).class_names == tuple("ABCDEFGH")

    capsys.readouterr()
    with pytest.warns(UserWarning, match="Stretched 2 of 2 images to the model's 32x32 pixels"):
        assert main(transfer[1:]) == 0
    assert capsys.readouterr().out == "swaps.png\n"
    sheet = np.asarray(Image.open("swaps.png"))
    assert sheet.shape == (2 * (13 + 2 * 34 - 2), 2 * (9 * 34 - 2 + 8), 3)
    paper = np.array([np.asarray(Image.open(f"letters/{name}.png"))[0, 0] for name in ("B/7", "E/8")], int)
    assert abs(sheet[[30, 100], 4].astype(int) - paper).max() < 3  # the first column: the images given
    assert evaluation == ["infoae", "evaluate", "runs/letters", "--quick"]
