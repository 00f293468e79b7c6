"""Errors written for the user: what was wrong, with which value, and what to do."""

import re
from collections.abc import Sequence


class UserError(Exception):
    """Input that cannot work. The command line prints the message and exits with code 2."""


class BusyError(UserError):
    """The folder is in use by another process."""


class DivergedError(Exception):
    """Training that diverged. `launch.py` prints the message (epoch, values, advice) and exits with code 1."""


def as_sentence(error: BaseException, argv: Sequence[str] = ()) -> str:
    """What to tell the user about `error`, blaming an argument of the command line `argv` where one fits.

    Our own messages stay as they are. Those of absl, ml_collections and a configuration file are put in plain words.
    """
    if isinstance(error, UserError | DivergedError):
        return str(error)
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = f"there is no setting {error.args[0]}" if isinstance(error, KeyError) else str(error).strip()
    if "Traceback" in text:  # config_flags includes that of an error in the configuration file
        last = text.splitlines()[-1]
        text = last.partition(": ")[2] or f"the configuration file raises {last}"
    missing = re.search(r"No such file or directory: ('.*?')", text)
    if missing and f"Attempted [Relative path]:\n    {missing[1][1:-1]}\n" in text:
        text = f"there is no configuration file {missing[1]}; the folder configs/ has some to start from"
    text = text.replace("invalid literal for int() with base 10:", "not a whole number:")
    text = text.replace("could not convert string to float:", "not a number:")
    values = {a: a.partition("=")[2] for a in argv if not a.startswith("--config=")}
    culprit = next((a for a, value in values.items() if value and value in text), "")
    return text if culprit in text else f"{text} (from {culprit})"
