"""SVHN (cropped), 32x32 RGB house numbers, 73,257 + 26,032 digits.

    python launch.py --config=configs/svhn.py

With the 531,131 extra digits, as in the paper ('more than 600,000'):

    python launch.py --config=configs/svhn.py --config.data.split=train+extra

The recipe is that of the embedded data set, but for a shared distribution of 4 couplings. It was measured on a small
part of SVHN, with more epochs (README.md); the whole, with those below, has neither been measured nor timed.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: '' (our recipe), 'paper' (the paper's), 'tiny' (seconds), or several joined by commas."""
    config = base.get_config()
    config.data.name = "svhn_cropped"
    config.model.bottleneck = 32
    base.in_colour(config)
    config.train.epochs, config.alignment.epochs, config.refine.epochs = 8, 30, 1
    return base.with_variants(config, arg)


def sweep(add: Callable[..., None]) -> None:
    """The trials of `--sweep`: `add` takes the fields to change."""
    base.sweep_in_colour(add)
