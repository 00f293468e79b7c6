import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base, folder, mnist, rendered, svhn
from configs.base import VARIANTS
from infoae_jax.config import Config, check_image_shape, differences, flatten, parse, program_key, to_dict
from infoae_jax.errors import UserError

MODULES = {"mnist": mnist, "svhn": svhn, "rendered": rendered, "folder": folder}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("arg", [None, "", *VARIANTS, "paper,tiny"])
def test_every_config_parses_and_survives_json(name, arg):
    values = MODULES[name].get_config(arg)
    values.data.dir = "somewhere"
    config = parse(values)
    assert parse(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", MODULES)
def test_paper_variant_is_the_papers(name):
    values = MODULES[name].get_config("paper")
    values.data.dir = "somewhere"
    config = parse(values)
    train = config.train
    assert (train.epochs, train.learning_rate, train.lambda_adv) == (300, 1e-3, 1e-3)
    assert (train.learning_rate_schedule, train.lambda_schedule) == ("constant", "constant")
    assert (train.adversary_steps, train.cycle_weight, train.swap_weight, train.shift) == (1, 0, 0, 0)
    assert (config.model.latent, config.model.couplings, config.refine.epochs) == ("unbounded", 0, 0)
    assert (config.model.leak, train.standardise) == (0, False)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"'papre'.*paper, large, tiny"):
        mnist.get_config("papre")


FIELDS = sorted(flatten(base.get_config().to_dict()))
IMPOSSIBLE = [
    ("model.bottleneck", 0, "is 0, but must be a whole number from 1 to 4096"),
    ("model.bottleneck", 16.0, "whole number"),
    ("model.bottleneck", True, "whole number"),
    ("model.bottleneck", "16", "whole number"),
    ("model.latent", "shpere", "'shpere', but must be 'unbounded', 'sphere' or 'ball'"),
    ("model.decoder", "", "'dcec' or 'literal'"),
    ("model.filters", (32, 64), "3 entries"),
    ("model.filters", (32, 64, 2.5), r"filters\[2\] is 2.5"),
    ("model.filters", 32, "list, each element a whole number from 1 to 4096"),
    ("train.lambda_adv", -0.1, "a number from 0 to 1000000"),
    ("train.lambda_adv", float("nan"), "from 0"),
    ("train.lambda_adv", "0.1", "a number from 0"),
    ("train.lambda_adv", True, "a number from 0"),
    ("train.lambda_ramp", 0.0, "above 0"),
    ("train.learning_rate", 0, "above 0 and at most 1"),
    ("train.learning_rate", 10**400, "above 0"),
    ("train.learning_rate", float("inf"), "above 0"),
    ("train.epochs", 0, "from 1 to 1000000"),
    ("train.batch_size", -1, "from 1 to"),
    ("train.adversary_steps", 0, "from 1 to 100"),
    ("train.dtype", "float16", "'float32' or 'bfloat16'"),
    ("train.seed", 2**32, "from 0 to 4294967295"),
    ("data.channels", 4, "0, 1 or 3"),
    ("data.channels", 1.0, "0, 1 or 3"),
    ("data.channels", True, "0, 1 or 3"),
    ("data.image_size", 30, "multiple of 4"),
    ("data.image_size", 4, "multiple of 4 from 8"),
    ("data.test_fraction", 0.0, "above 0"),
    ("data.num_train", 100_000_000_000, "num_train is 100000000000, but must be a whole number from 0 to 10000000"),
    ("data.num_test", 10_000_001, "num_test is 10000001, but must be a whole number from 0 to 10000000"),
    ("data.name", "", "empty"),
    ("data.name", "folder", "data.dir is empty"),
    ("data.name", "rendered", "num_train"),
    ("data.split", "", "split"),
    ("log.sample_epochs", (1, -1), r"sample_epochs\[1\] is -1"),
    ("log.tensorboard", 1, "True or False"),
    ("log.every_steps", 0, "a whole number from 1"),
    ("checkpoint.every_seconds", -1, "a number from 0 to 1000000000"),
    ("checkpoint.every_seconds", "30", "a number from 0 to 1000000000"),
    ("checkpoint.keep", 1, "from 2 to 1000"),
    ("checkpoint.every_seconds", 10**400, "a number from 0 to 1000000000"),
    ("checkpoint.every_seconds", float("inf"), "is inf, but must be a number from 0"),
    ("model.filters", (10**5000, 1, 1), r"filters\[0\] is an integer of thousands of digits"),
    ("data.num_train", 10**400, r"is 10{99}\.\.\., but must be a whole number from 0"),
]


@settings(deadline=None)
@given(st.sampled_from(FIELDS), st.sampled_from([1, -1]), st.integers(31, 20_000))
def test_huge_integers_are_refused_by_every_field(path, sign, bits):
    values = base.get_config().to_dict()
    section, field = path.split(".")
    is_list = isinstance(values[section][field], tuple)
    values[section][field] = [sign * 2**bits] if is_list else sign * 2**bits
    if path.endswith("seed") and sign > 0 and bits < 32:
        parse(values)
        return
    with pytest.raises(UserError, match=f"^config.{path}") as caught:
        parse(values)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("path", "value", "says"), IMPOSSIBLE)
def test_impossible_values_name_the_field_the_value_and_what_is_allowed(path, value, says):
    values = base.get_config().to_dict()
    section, field = path.split(".")
    values[section][field] = value
    with pytest.raises(UserError, match=says) as caught:
        parse(values)
    assert section in str(caught.value)


def test_bottleneck_one_has_no_alignment():
    values = base.get_config()
    values.model.bottleneck = 1
    with pytest.raises(UserError, match="couplings=0"):
        parse(values)
    values.model.couplings = 0
    parse(values)


def test_unknown_missing_and_misplaced_keys():
    values = base.get_config().to_dict()
    with pytest.raises(
        UserError, match=r"config.model.botleneck does not exist. config.model has the fields bottleneck, "
    ):
        parse({**values, "model": {**values["model"], "botleneck": 1}})
    with pytest.raises(UserError, match=r"config.model.hidden is missing"):
        parse({**values, "model": {k: v for k, v in values["model"].items() if k != "hidden"}})
    with pytest.raises(UserError, match=r"config.model is 3.*section"):
        parse({**values, "model": 3})


@given(st.integers(-10, 600), st.integers(-10, 600))
def test_image_shapes_are_accepted_exactly_where_documented(height, width):
    good = all(8 <= side <= 512 and side % 4 == 0 for side in (height, width))
    if good:
        check_image_shape((height, width, 3))
    else:
        with pytest.raises(UserError, match=r"--config\.data\.image_size=\d+") as caught:
            check_image_shape((height, width, 3))
        advised = int(str(caught.value).rstrip(".").rpartition("=")[2])
        check_image_shape((advised, advised, 3))


def test_differences_name_fields_and_leave_out_those_without_effect():
    old = parse(base.get_config())
    new = dataclasses.replace(
        old,
        train=dataclasses.replace(old.train, lambda_adv=0.5),
        data=dataclasses.replace(old.data, dir="elsewhere", seed=3),
        log=dataclasses.replace(old.log, every_steps=7),
        checkpoint=dataclasses.replace(old.checkpoint, every_seconds=0.0),
        evaluate=dataclasses.replace(old.evaluate, at_end="full"),
    )
    assert differences(old, new) == ["data.seed: 0 -> 3", "train.lambda_adv: 0.005 -> 0.5"]
    assert differences(old, old) == []


def test_config_is_immutable():
    config = parse(base.get_config())
    assert isinstance(config, Config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.bottleneck = 3


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("train.seed", 5, True),
        ("alignment.style_weight", 0.5, True),
        ("data.cache_dir", "elsewhere", True),
        ("evaluate.at_end", "quick", True),
        ("train.cycle_weight", 0.5, False),
        ("train.swap_weight", 0.5, False),
        ("train.epochs", 7, False),
        ("data.seed", 5, False),
        ("log.every_steps", 7, False),
    ],
)
def test_runs_share_programs_unless_compiled_or_looped_over_differently(path, value, same):
    values = base.get_config().to_dict()
    before = program_key(parse(values))
    section, field = path.split(".")
    values[section][field] = value
    assert (program_key(parse(values)) == before) == same
