"""Errors written for the user: what was wrong, with which value, and what to do."""

import re


class UserError(Exception):
    """Input that cannot work. The command line prints the message and exits with code 2."""


class BusyError(UserError):
    """The folder is in use by another process."""


class DivergedError(Exception):
    """Training that diverged. `launch.py` prints the message (epoch, values, advice) and exits with code 1."""


def as_sentence(error: BaseException, culprit: str = "") -> str:
    """What to tell the user about `error`, which the argument `culprit` of the command line led to, if it is known.

    Our own messages stay as they are. Those of absl, ml_collections and a configuration file are put in plain words.
    """
    if isinstance(error, UserError | DivergedError):
        return str(error)
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    text = f"there is no setting {error.args[0]}" if isinstance(error, KeyError) else str(error).strip()
    if isinstance(error, SyntaxError):
        text = error.msg  # without the line, which is not always that of the file
    if "Traceback" in text:  # config_flags includes that of an error in the configuration file
        last = text.splitlines()[-1]
        text = last.partition(": ")[2] or f"the configuration file raises {last}"
    missing = re.search(r"No such file or directory: ('.*?')", text)
    if missing and f"Attempted [Relative path]:\n    {missing[1][1:-1]}\n" in text:
        text = f"there is no configuration file {missing[1]}; there are mnist, svhn, rendered and folder"
    text = text.replace("Configuration is not available because of an earlier failure to load: ", "")
    text = text.replace("module 'config_config' has no attribute 'get_config'", "it has no function get_config()")
    text = text.replace("invalid literal for int() with base 10:", "not a whole number:")
    text = text.replace("could not convert string to float:", "not a number:")
    return text if culprit in text else f"{text} (from {culprit})"
