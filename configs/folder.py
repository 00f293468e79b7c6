"""Your own images: PNG or JPEG, one folder for each class.

    python launch.py --config=configs/folder.py --config.data.dir=path/to/images

    images/apple/*.png           or   images/train/apple/*.png   images/test/apple/*.png
    images/pear/*.jpg                 images/train/pear/*.png    images/test/pear/*.png

Without train/ and test/, a random fifth of each class (chosen with `data.seed`) becomes the test split.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The recipe; `arg` names variants of it, joined by commas (`base.apply_variants`)."""
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = 32
    config.data.channels = 3
    config.model.bottleneck = 32
    base.use_colour_recipe(config)
    config.alignment.views, config.train.view_share = 0, 0.0  # a class may be known by its colour
    config.train.epochs, config.alignment.epochs, config.refine.epochs = 50, 200, 6
    return base.apply_variants(config, arg)


def sweep(add: Callable[..., None]) -> None:
    """Adds the trials of `--sweep`; `add` takes the settings that a trial changes."""
    base.sweep_colour(add)
