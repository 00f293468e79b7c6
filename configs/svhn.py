"""SVHN (cropped): 73,257 + 26,032 digits of house numbers, 32x32 RGB.

    python launch.py --config=configs/svhn.py

With the 531,131 extra digits, as in the paper ('more than 600,000'):

    python launch.py --config=configs/svhn.py --config.data.split=train+extra

The recipe is that of the rendered data set with smaller batches, more weight on colours, a shared distribution of 4
couplings, a deep content classifier, and warped and recoloured views for all networks. It was measured on a small part
of SVHN with more epochs (docs/pages/results.md). The whole of SVHN, with the epochs below, was neither measured nor
timed.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The recipe; `arg` names variants of it, joined by commas (`base.apply_variants`)."""
    config = base.get_config()
    config.data.name = "svhn_cropped"
    config.model.bottleneck = 32
    base.use_colour_recipe(config)
    config.train.batch_size = 32
    config.train.epochs, config.alignment.epochs, config.refine.epochs = 8, 30, 1
    return base.apply_variants(config, arg)


def sweep(add: Callable[..., None]) -> None:
    """Adds the trials of `--sweep`; `add` takes the settings that a trial changes."""
    base.sweep_colour(add)
