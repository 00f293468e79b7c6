"""The rendered data set: 32x32 RGB digits like house numbers, rendered from a seed. Nothing is downloaded.

    python launch.py --config=configs/rendered.py

Takes 5 to 10 minutes on two cores. `infoae evaluate` gives, for seeds 0, 1 and 2 on the images of
`--config.data.seed=2`: reconstruction error (MSE) 0.0059, 0.0058 and 0.0060, leakage 14.3, 13.7 and 14.0 % (chance 10.6
%), transfer accuracy 99.8, 99.9 and 99.9 %. `configs/rendered.py:large` takes about an hour on one core and gives, for
seed 0, 0.0031, 25.5 % and 99.9 %.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The recipe; `arg` names variants of it, joined by commas (`base.apply_variants`)."""
    config = base.get_config()
    config.data.name = "rendered"
    config.data.num_train, config.data.num_test = 64_000, 4_000
    config.model.bottleneck = 32
    base.use_colour_recipe(config)
    # Here every style is common in every class, and a shallow classifier reads 99 % of the images.
    config.model.content, config.train.view_share, config.alignment.views = "shallow", 0.0, 0
    config.train.augment = "classifier"
    config.train.chroma_weight = config.refine.chroma_weight = 0.0  # colours are kept without it
    config.model.reference_couplings = 0  # the simpler, the less it leaks; with this many images swaps stay good
    config.train.epochs, config.alignment.epochs, config.refine.epochs = 3, 30, 1
    return base.apply_variants(config, arg)


def sweep(add: Callable[..., None]) -> None:
    """Adds the trials of `--sweep`; `add` takes the settings that a trial changes."""
    base.sweep_colour(add)
