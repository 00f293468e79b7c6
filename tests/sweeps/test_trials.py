from pathlib import Path

import pytest

from configs import base, folder, mnist, rendered, svhn
from infoae_jax.config import flatten, parse, to_dict
from infoae_jax.errors import UserError
from infoae_jax.sweeps.trials import filter_trials, group_trials, list_trials, parse_trial_name, trial_name

SWEEP = Path("runs/x/sweep")


@pytest.fixture
def make(tiny_config):
    """Trials of a sweep given as a list of what each changes."""
    return lambda *added: list_trials(tiny_config, lambda add: [add(**values) for values in added], SWEEP)


@pytest.fixture
def grid(tiny_config):
    return list_trials(tiny_config, lambda add: base.sweep_over(add, (0.0, 0.01, 1e-5), (4, 16), (0, 1)), SWEEP)


def names(trials):
    return [trial.name for trial in trials]


@pytest.mark.parametrize("module", [mnist, svhn, rendered, folder])
def test_every_configuration_sweeps_lambda_bottleneck_and_seed(module):
    values = module.get_config("tiny")
    values.data.dir = "somewhere"
    trials = list_trials(parse(values), module.sweep, SWEEP)
    assert {tuple(t.values) for t in trials} == {("model.bottleneck", "train.lambda_adv", "train.seed")}
    assert len(set(names(trials))) == len(trials) == 36
    for trial in trials:
        assert trial.config.model.bottleneck == trial.values["model.bottleneck"]
        assert trial.config.train.lambda_adv == trial.values["train.lambda_adv"]
    assert {t.values["train.seed"] for t in trials[:12]} == {0}  # one seed of everything first


def test_names_are_readable_exact_and_stable(make):
    trials = make(
        {"model.bottleneck": 16, "train.lambda_adv": 0.01, "train.seed": 0},
        {"model.bottleneck": 16, "train.lambda_adv": 0.010001, "data.seed": 3},
        {"alignment.lambda_adv": 1e-05, "model.filters": (8, 16, 32), "alignment.style_weight": 0},
        {},
    )
    assert names(trials) == [
        "bottleneck=16,lambda_adv=0.01,seed=0",
        "bottleneck=16,lambda_adv=0.010001,data.seed=3",
        "alignment.lambda_adv=1e-05,filters=8-16-32,style_weight=0",
        "default",
    ]
    assert trials[0].folder == SWEEP / names(trials)[0]
    assert trials[1].config.data.seed == 3
    assert trials[2].config.model.filters == (8, 16, 32)
    assert "/" not in trial_name({"data.dir": "/some/where"})


def test_a_name_tells_what_the_trial_changes(tiny_config):
    config = tiny_config.train
    found = parse_trial_name(f"lambda_adv={config.lambda_adv},seed={config.seed},nonsense=1,default", tiny_config)
    assert found == {"train.lambda_adv": config.lambda_adv, "train.seed": config.seed}


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ([], "adds no trial"),
        ([{"train.seed": 1}, {"train.seed": 1}], "two trials called 'seed=1'"),
        ([{"lambda_adv": 1.0}], "'lambda_adv', which is no setting"),
        ([{"train.lamda": 1.0}], "'train.lamda', which is no setting"),
        ([{"model.bottleneck": 0}], "'bottleneck=0' of the sweep cannot work: config.model.bottleneck is 0"),
    ],
)
def test_impossible_sweeps(make, added, says):
    with pytest.raises(UserError, match=says):
        make(*added)


def test_groups_differ_in_traced_fields_only(grid, make):
    groups = group_trials(grid)
    assert [len(group) for group in groups] == [6, 6]
    for group in groups:
        flat = [flatten(to_dict(trial.config)) for trial in group]
        different = {name for name in flat[0] if len({str(f[name]) for f in flat}) > 1}
        assert different == {"train.lambda_adv", "train.seed"}
    assert len(group_trials(make({"train.seed": 1}, {"data.seed": 1}, {"train.epochs": 1}, {"train.seed": 2}))) == 3


def test_trials_with_images_of_their_own_are_not_trained_together(make):
    assert len(group_trials(make({"data.dir": "a"}, {"data.dir": "b"}))) == 2
    assert len(group_trials(make({"data.cache_dir": "a"}, {"data.cache_dir": "b"}))) == 1


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ("", 12),
        ("bottleneck=16", 6),
        ("bottleneck=16,seed=0", 3),
        (" model.bottleneck = 16 , seed=0|1", 6),
        ("lambda_adv<=0.01", 12),
        ("lambda_adv<0.01,lambda_adv>0", 4),
        ("lambda_adv=0.00001", 4),
        ("lambda_adv!=0|0.01", 4),
        ("lambda_adv>=1e-2,seed!=0", 2),
    ],
)
def test_filter(grid, conditions, count):
    assert len(filter_trials(grid, conditions)) == count


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ("bottleneck", "cannot read 'bottleneck'"),
        ("bottleneck=", "cannot read"),
        ("epochs=3", "'epochs' is not swept. The trials differ in: bottleneck, lambda_adv, seed"),
        ("bottleneck=5", "'bottleneck=5' leaves no trial. bottleneck is one of: 4, 16"),
        ("bottleneck=4,lambda_adv=0.5", "'lambda_adv=0.5' leaves no trial"),
        ("bottleneck<four", "needs numbers"),
    ],
)
def test_filters_that_cannot_be(grid, conditions, says):
    with pytest.raises(UserError, match=says):
        filter_trials(grid, conditions)


def test_filter_on_texts_and_on_fields_that_only_some_trials_change(make):
    trials = make({"model.latent": "ball"}, {"model.latent": "sphere"}, {"train.seed": 3})
    assert names(filter_trials(trials, "latent=ball")) == ["latent=ball", "seed=3"]  # as the configuration has it
    assert names(filter_trials(trials, "latent!=ball")) == ["latent=sphere"]
    assert names(filter_trials(trials, "seed=0")) == ["latent=ball", "latent=sphere"]
    with pytest.raises(UserError, match="seed is one of: 0, 3"):
        filter_trials(trials, "seed=7")
