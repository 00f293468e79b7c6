import collections

import pytest

from infoae_jax.evaluation.table import HEADLINE, as_text, references, table_rows
from tests.records import RECORD, STROKES


def test_headline_metrics_are_read_from_a_record():
    found = {metric.name: metric.of(RECORD) for metric in HEADLINE}
    assert found["probe_accuracy"] == 0.8123
    assert found["style_correlation"] == pytest.approx(0.91)  # the mean of those that are defined
    assert found["frechet_distance"] is None


def test_references_are_those_of_the_data_and_the_latents_size():
    assert [each.name for each in references("mnist", {8, 32})] == ["class means"]
    assert "Cycle-VAE" in [each.name for each in references("mnist", {16})]
    assert references("rendered", {16}) == []


def test_table_names_references_for_mnist_only_and_what_was_left_out():
    assert any(row.reference for row in table_rows(RECORD))
    other = {**RECORD, "data": {**RECORD["data"], "name": "rendered"}}
    assert not any(row.reference for row in table_rows(other))
    assert "left out" in as_text(RECORD)


def test_table_has_a_row_for_everything_in_a_record():
    rows = collections.Counter(row.group.split(" ")[0] for row in table_rows(RECORD))
    assert rows == {
        "leakage": 8,
        "reconstruction": 3,
        "content": 1,
        "transfer": 3,
        "style": len(STROKES) + 1,
        "counterfactual": 1,  # why it was left out
        "composition": 3,
        "reversibility": 2,
        "realism": 1,
        "cost": 2,
    }
    assert "undefined" in next(row.value for row in table_rows(RECORD) if row.name == "width, correlation")
