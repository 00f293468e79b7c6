import contextlib
import copy
import functools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infoae_jax.errors import UserError
from infoae_jax.evaluation.record import FULL, QUICK, file_name, read_evaluation
from infoae_jax.evaluation.table import HEADLINE, as_text
from tests.json_values import JSON
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
    with pytest.raises(UserError, match="evaluation_quick.json' has format 1, .* evaluate the run again"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 4, "figures"')
    with pytest.raises(UserError, match="evaluation.json' is damaged .* evaluate the run again"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "5", "null", "[]", "{}", "NaN", "[" * 100_000, '{"format": 4, "figures": {}}', '{"format": [2]}', "\x00"],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match="evaluation.json' (is damaged|has format)"):
        read_evaluation(tmp_path)


def paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    if isinstance(value, list):
        for i, inner in enumerate(value):
            yield from paths(inner, (*path, i))


@pytest.mark.parametrize("path", [path for path in paths(RECORD) if path and isinstance(path[-1], str)], ids=str)
def test_whatever_is_missing_from_a_file_it_can_be_laid_out_or_is_refused(tmp_path, path):
    record = copy.deepcopy(RECORD)
    *inner, last = path
    del functools.reduce(lambda tree, key: tree[key], inner, record)[last]
    (tmp_path / file_name(QUICK)).write_text(json.dumps(record))
    with contextlib.suppress(UserError):
        as_text(read_evaluation(tmp_path))


@given(st.sampled_from([path for path in paths(RECORD) if path]), JSON)
@example(("figures",), None)
@example(("figures", "reconstruction", "mse"), "a text")
@example(("figures", "reconstruction", "mse"), 1e300)
@example(("figures", "leakage", "chance"), None)
@example(("figures", "transfer", "by_class"), [])
@example(("figures", "transfer", "by_class"), [0.5])
@example(("class_names",), ["only"])
@example(("figures", "transfer"), {"transfer_accuracy": 0.5})
@example(("figures", "leakage"), {})
@example(("figures", "style"), {"correlation": {}})
@example(("cost",), {})
@example(("protocol",), {})
@example(("untrusted",), [[]])
def test_whatever_stands_in_a_file_it_can_be_laid_out_or_is_refused(tmp_path_factory, path, value):
    run = tmp_path_factory.mktemp("run")
    record = copy.deepcopy(RECORD)
    *inner, last = path
    functools.reduce(lambda tree, key: tree[key], inner, record)[last] = value
    (run / file_name(QUICK)).write_text(json.dumps(record))
    try:
        found = read_evaluation(run)
    except UserError as error:
        refusal = str(error)
    else:
        as_text(found)
        for metric in HEADLINE:
            metric.write(metric.of(found))
        return
    assert str(run) in refusal
    assert "evaluate the run again" in refusal
