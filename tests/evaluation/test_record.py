import json

import pytest

from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, QUICK, file_name, read_evaluation
from tests.records import RECORD


def write(folder, protocol, **changes):
    (folder / file_name(protocol)).write_text(json.dumps({**RECORD, "protocol": {"name": protocol.name}, **changes}))


def test_full_evaluation_is_preferred_and_each_can_be_asked_for(tmp_path):
    assert read_evaluation(tmp_path) is None
    write(tmp_path, QUICK)
    assert read_evaluation(tmp_path)["protocol"]["name"] == "quick"
    assert read_evaluation(tmp_path, FULL) is None
    write(tmp_path, FULL)
    assert read_evaluation(tmp_path)["protocol"]["name"] == "full"
    assert read_evaluation(str(tmp_path), QUICK)["protocol"]["name"] == "quick"


def test_damaged_file_and_other_format_are_refused(tmp_path):
    write(tmp_path, QUICK, format=1)
    with pytest.raises(UserError, match="evaluation_quick.json' has format 1, .* Evaluate the run again"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 2, "figures"')
    with pytest.raises(UserError, match="evaluation.json' is damaged .* Evaluate the run again"):
        read_evaluation(tmp_path)
