import collections
import json

from infoae_jax.evaluation.table import HEADLINE, as_text, references, table_rows
from tests.records import RECORD, STROKES


def values(record):
    return {(row.group, row.name): row.value for row in table_rows(record)}


def test_figures_are_written_out():
    found = values(RECORD)
    assert found["leakage", "probe accuracy"] == "81.2%"
    assert found["leakage", "best probe"] == "mlp_512, folds at random"
    assert found["leakage", "(a) fitted on training codes"] == "50.0% (40.0% to 60.0%)"
    assert found["style", "slant, correlation"] == "0.910 (reconstruction 0.990)"
    assert found["style", "width, correlation"] == "undefined (reconstruction 0.900)"
    assert found["cost", "encode, decode"] == "1,000, 900 images/s on 2 x cpu"
    (transfer,) = {group for group, _ in found if group.startswith("transfer")}
    assert "untrusted" in transfer
    assert found[transfer, "judges on real images"] == "99.0%, 99.0%, 99.0% (threshold 99.3%)"


def test_each_figure_of_a_record_has_its_rows():
    rows = collections.Counter(row.group.split(" ")[0] for row in table_rows(RECORD))
    assert rows == {
        "leakage": 7,
        "reconstruction": 3,
        "content": 1,
        "transfer": 3,
        "style": len(STROKES) + 1,
        "counterfactual": 1,  # why it was left out
        "composition": 3,
        "reversibility": 2,
        "cost": 2,
    }


def test_worst_class_is_printed_by_its_name():
    assert "90.0% (class nought)" in as_text(RECORD)


def test_what_was_left_out_has_a_reason_or_no_row():
    found = values(RECORD)
    assert found["counterfactual", "left out"] == "only for <rendered>"
    assert not any(group == "realism" or "colour" in name for group, name in found)  # neither measured nor left out
    figures = json.loads(json.dumps(RECORD["figures"]))
    del figures["leakage"]["highest"]["folds_at_random"]
    found = values({**RECORD, "figures": figures})
    assert found["leakage", "(a) fitted on training codes"] == "50.0% (40.0% to 60.0%)"
    assert ("leakage", "(c) folds at random") not in found


def test_references_are_for_mnist_only():
    assert {row.name: row.reference for row in table_rows(RECORD)}["slant, correlation"] == "Cycle-VAE .85"
    other = {**RECORD, "data": {**RECORD["data"], "name": "rendered"}}
    assert not any(row.reference for row in table_rows(other))


def test_references_are_those_of_the_data_and_the_latents_size():
    assert [e.name for e in references("mnist", {8, 32})] == ["class means"]
    assert "Cycle-VAE" in [e.name for e in references("mnist", {16})]
    assert references("rendered", {16}) == []


def test_headline_metrics_are_read_from_a_record():
    found = {metric.name: metric.of(RECORD) for metric in HEADLINE}
    assert found["probe_accuracy"] == 0.8123
    assert found["style_correlation"] == 0.91  # the mean of those that are defined
    assert found["frechet_distance"] is None
    assert HEADLINE[0].write(0.8123) == "81.2%"
    assert HEADLINE[0].write(None) == ""
