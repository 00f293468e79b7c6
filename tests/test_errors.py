import re
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from infoae_jax.errors import BusyError, DivergedError, UserError, as_sentence

pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method:DeprecationWarning")  # of ml_collections


@pytest.fixture
def say(monkeypatch):
    """The sentence for what absl and ml_collections raise for a command line."""

    def sentence(*argv):
        monkeypatch.setattr(sys, "argv", ["launch.py", *argv])  # where ml_collections looks for overrides
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        try:
            values(sys.argv)
            _ = values.config.data
        except Exception as error:
            return as_sentence(error)
        return pytest.fail("nothing was raised")

    return sentence


@pytest.mark.parametrize("error", [UserError("x is 3."), BusyError("In use."), DivergedError("It diverged.")])
def test_our_own_messages_stay_as_they_are(error):
    assert as_sentence(error, "--x=3") == str(error)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--config.model.hidden=abc"], r"--config\.model\.hidden=abc: not a whole number: 'abc'$"),
        (["--config.train.learning_rate=abc"], r"--config\.train\.learning_rate=abc: not a number: 'abc'$"),
        (["--config.train.epoch=3"], "^there is no setting "),
    ],
)
def test_bad_overrides_are_put_in_plain_words(say, argv, says):
    assert re.search(says, say("--config=configs/mnist.py", *argv))


def test_a_configuration_file_that_fails_or_is_missing(say, tmp_path):
    path = tmp_path / "mine.py"
    for line, says in (("raise ValueError('too small: 3')", "too small: 3"), ("raise ValueError", "raises ValueError")):
        path.write_text(f"def get_config():\n    {line}\n")
        sentence = say(f"--config={path}")
        assert sentence.endswith(says)
        assert "\n" not in sentence
    assert say("--config=nowhere.py").startswith("there is no configuration file 'nowhere.py'; ")


def test_the_argument_to_blame_is_named_unless_the_message_does():
    option = "--config.model.filters=(1"
    assert as_sentence(ValueError("'(1' was never closed"), option) == f"'(1' was never closed (from {option})"
    assert as_sentence(ValueError(f"bad {option}"), option) == f"bad {option}"
    assert as_sentence(ValueError("bad")) == "bad"


def test_the_innermost_error_speaks():
    assert as_sentence(RuntimeError(ValueError("no such split"))) == "no such split"
