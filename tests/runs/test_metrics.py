import json

from infoae_jax.runs.metrics import append_metrics, read_metrics


def test_lines_are_appended_and_read_back_once(tmp_path):
    append_metrics(tmp_path, "autoencoder", step=1, loss=1.5)
    append_metrics(tmp_path, "autoencoder", step=2, loss=float("nan"))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "autoencoder", "st')  # killed here
    append_metrics(tmp_path, "autoencoder", step=2, loss=0.5)
    for kind in ("stop", "refinement"):
        for _ in range(2):
            append_metrics(tmp_path, kind, step=2)
    assert read_metrics(tmp_path, "autoencoder") == [
        {"kind": "autoencoder", "step": 1, "loss": 1.5},
        {"kind": "autoencoder", "step": 2, "loss": 0.5},
    ]
    assert len(read_metrics(tmp_path)) == 5
    assert len(read_metrics(tmp_path, "refinement")) == 1
    assert read_metrics(tmp_path / "nowhere") == []
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[1])["loss"] == "nan"
