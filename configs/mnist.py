"""MNIST, 28x28 grey, 60,000 + 10,000 handwritten digits.

python launch.py --config=configs/mnist.py
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """`arg`: '' (our recipe), 'paper' (the paper's), 'tiny' (seconds), or several joined by commas."""
    config = base.get_config()
    return base.with_variants(config, arg)
