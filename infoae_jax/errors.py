"""Errors that speak to the user: a sentence with what was wrong, the value, and what to do."""


class UserError(Exception):
    """Input that cannot work. `launch.py` prints the sentence and exits with code 2."""


class DivergedError(Exception):
    """Training left the range of useful numbers. `launch.py` prints epoch, values and advice, and exits with code 1."""
