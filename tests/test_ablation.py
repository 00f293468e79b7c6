"""What the runs of the ablation share, on made-up run folders."""

import json

import pytest
from ml_collections import ConfigDict

from benchmarks import ablation
from infoae_jax import runlog
from infoae_jax.config import parse, to_dict

ENDS = {"epoch": 30, "align": 50, "refine": 60}


@pytest.fixture
def out(tmp_path):
    """With a finished run of the default recipe."""
    config, _ = ablation.config_of("default", 0, "", "mnist:tiny")
    config = to_dict(config)
    config["model"]["couplings"], config["refine"]["epochs"] = 2, 1
    run = ablation.folder_of(tmp_path, "default", 0)
    for step in ENDS.values():
        (run / "checkpoints" / str(step)).mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"format": 1, "config": config}))
    epochs = {"epoch": config["train"]["epochs"], "align": config["alignment"]["epochs"], "refine": 1}
    for kind, step in ENDS.items():
        runlog.append(run, kind, step=step, epoch=epochs[kind])
    runlog.append(run, "end", step=ENDS["refine"])
    return tmp_path


def changed(out, change):
    values = json.loads((ablation.folder_of(out, "default", 0) / "config.json").read_text())["config"]
    for field, value in change.items():
        section, name = field.split(".")
        values[section][name] = value
    return parse(ConfigDict(values))


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"refine.style_weight": 0.5}, "align"),
        ({"refine.epochs": 0, "evaluate.at_end": "quick"}, "align"),
        ({"alignment.transport": 0.5, "refine.style_weight": 0.5}, "epoch"),
        ({"train.lambda_adv": 0.5}, None),
        ({"model.bottleneck": 5}, None),
        ({"train.seed": 7}, None),
    ],
)
def test_a_run_begins_where_its_training_parts_from_anothers(out, change, shared):
    config, folder = changed(out, change), out / "new"
    ablation.borrow(out, config, folder)
    assert folder.exists() == (shared is not None)
    if shared:
        assert [p.name for p in (folder / "checkpoints").iterdir()] == [str(ENDS[shared])]
        assert max(line["step"] for line in runlog.read(folder)) == ENDS[shared]
        assert not runlog.read(folder, "end")
        assert json.loads((folder / "config.json").read_text())["config"]["refine"] == to_dict(config)["refine"]


def test_what_was_not_kept_is_not_shared(out):
    (ablation.folder_of(out, "default", 0) / "checkpoints" / str(ENDS["align"])).rmdir()
    ablation.borrow(out, changed(out, {"refine.style_weight": 0.5}), out / "new")
    assert [p.name for p in (out / "new" / "checkpoints").iterdir()] == [str(ENDS["epoch"])]
