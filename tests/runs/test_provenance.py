import datetime
import shutil
from pathlib import Path

from infoae_jax.runs import provenance
from infoae_jax.runs.provenance import code_version, now


def test_code_version_changes_with_the_source(tmp_path, monkeypatch):
    here = code_version()
    assert here == code_version()
    shutil.copytree(Path(provenance.__file__).parents[1], tmp_path / "infoae_jax")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "infoae_jax" / "runs" / "provenance.py"))
    assert code_version()["source"] == here["source"]
    assert "commit" not in code_version()
    with open(tmp_path / "infoae_jax" / "models" / "reversal.py", "a") as file:
        file.write("# changed")
    assert code_version()["source"] != here["source"]


def test_now_is_in_utc():
    assert datetime.datetime.fromisoformat(now()).utcoffset() == datetime.timedelta()
