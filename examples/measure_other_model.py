"""Measures someone else's model: here, 16 principal components, in NumPy.

python examples/measure_other_model.py

Any `encode` and `decode` on NumPy arrays will do, whatever library they are written in. The first time, the judges of
the data set are trained, which takes minutes.
"""

import numpy as np

from configs import rendered
from infoae_jax.config import parse
from infoae_jax.data.load import load_splits
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.evaluation.judges import load_judges
from infoae_jax.evaluation.measure import measure
from infoae_jax.evaluation.metrics import System
from infoae_jax.evaluation.record import QUICK, Protocol
from infoae_jax.types import Json


def principal_components(images: np.ndarray, size: int) -> System:
    """A model that ignores the class: its latent leaks, and its swaps copy their source. The figures will say so."""
    pixels = images.reshape(len(images), -1) / 255.0
    mean = pixels.mean(0)
    axes = np.linalg.svd(pixels - mean, full_matrices=False)[2][:size].T
    return System(
        encode=lambda x: ((x.reshape(len(x), -1) / 255.0 - mean) @ axes).astype(np.float32),
        decode=lambda z, labels: (mean + z @ axes.T).reshape(len(z), *images.shape[1:]).astype(np.float32),
    )


def main(num_train: int = 10_000, num_test: int = 1_000, protocol: Protocol = QUICK) -> Json:
    """What `infoae evaluate` measures, of that model on rendered images."""
    config = rendered.get_config()
    config.data.num_train, config.data.num_test = num_train, num_test
    data = parse(config).data
    splits = load_splits(data)
    judges = load_judges(data, splits, data_mesh())
    figures: Json = measure(principal_components(splits.train.images[:5000], 16), splits, judges, protocol)["figures"]
    print(
        f"leakage {figures['leakage']['probe_accuracy']:.1%} (chance {figures['leakage']['chance']:.1%}), "
        f"MSE {figures['reconstruction']['mse']:.4f}, "
        f"transfer accuracy {figures['transfer']['transfer_accuracy']:.1%}"
    )
    return figures


if __name__ == "__main__":
    main()
