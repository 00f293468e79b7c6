"""Errors that speak to the user: a sentence with what was wrong, the value, and what to do."""

import re
from collections.abc import Sequence

# What Python says of numbers that are none, and how we say it.
_IN_WORDS = {
    "invalid literal for int() with base 10:": "not a whole number:",
    "could not convert string to float:": "not a number:",
}


class UserError(Exception):
    """Input that cannot work. `launch.py` prints the sentence and exits with code 2."""


class BusyError(UserError):
    """Another process is at work in the folder."""


class DivergedError(Exception):
    """Training left the range of useful numbers. `launch.py` prints epoch, values and advice, and exits with code 1."""


def as_sentence(error: BaseException, argv: Sequence[str] = ()) -> str:
    """What to tell the user. Our own errors are sentences; those of the command-line parsers are made into ones.

    argv: the command line, in which the culprit is looked for.
    """
    if isinstance(error, UserError | DivergedError):
        return str(error)
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = f"there is no setting {error.args[0]}" if isinstance(error, KeyError) else str(error).strip()
    if "Traceback" in text:  # config_flags puts one around what a configuration file raised
        last = text.splitlines()[-1]
        text = last.partition(": ")[2] or f"the configuration file raises {last}"
    missing = re.search(r"No such file or directory: ('.*?')", text)
    if missing and f"Attempted [Relative path]:\n    {missing[1][1:-1]}\n" in text:
        text = f"there is no configuration file {missing[1]}; the folder configs/ has some to start from"
    for theirs, ours in _IN_WORDS.items():
        text = text.replace(theirs, ours)
    values = [a for a in argv if "=" in a and not a.startswith("--config=") and a.partition("=")[2] in text]
    return f"{text} (from {values[0]})" if values and values[0] not in text else text
