import typing

import jax
import jax.numpy as jnp
import pytest

from infoae_jax.devices import compiling
from infoae_jax.devices.compiling import OPTIONS, Tuning, Use, choose_tuning, compiler_options
from infoae_jax.errors import UserError


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(compiling, "is_gpu", lambda: True)
    yield
    choose_tuning("quick")


def test_there_are_options_for_every_tuning_and_use_and_this_xla_knows_them():
    """It refuses names that it does not know, on any platform."""
    assert set(OPTIONS) == {(tuning, use) for tuning in typing.get_args(Tuning) for use in typing.get_args(Use)}
    for options in OPTIONS.values():
        assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.float32(1)) == 2
    with pytest.raises(Exception, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_no_such_option": True})(jnp.float32(1))


def test_the_tuning_is_chosen_once_for_all_programs_of_training_steps(gpu):
    assert compiler_options("steps") == OPTIONS["quick", "steps"]
    choose_tuning("full")
    assert compiler_options("steps") == {}
    assert compiler_options("rare") == OPTIONS["full", "rare"] != {}
    with pytest.raises(UserError, match="gpu_tuning is 'fast', but must be one of none, quick, full"):
        choose_tuning("fast")


def test_on_the_cpu_there_are_none():
    assert compiler_options("steps") is None
