"""Leakage: how well fresh probes read the class from frozen style latents.

The adversary's accuracy during training proves nothing (Elazar & Goldberg 2018): the encoder is trained to beat it.
Here four new probes are fitted to the very tensor that the decoder receives, standardised, and the best one counts.
Probes and encoders know the images they were trained on, so three settings are kept apart:

* `fitted_on_training_codes`: fitted to codes of training images, tested on codes of unseen ones.
* `cross_validated_on_unseen_codes`: fitted and tested on codes of unseen images, in five folds.
* `split_of_training_codes`: fitted and tested on codes of training images, split once. It shows what an encoder that
  overfits gives away about its own training images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from infoae_jax.evaluation.classifier import each_on_a_device, fit_classifier
from infoae_jax.types import Json, Variables

NUM_FOLDS = 5
MIN_FOLD_CODES = 50  # with fewer codes of unseen images, folds say nothing
VALIDATION_SHARE = 0.1  # of the codes that an MLP is fitted to, by which its epoch is chosen
Scores = tuple[float, float]  # accuracy, and cross-entropy in nats


class Codes(NamedTuple):
    """Style latents, and the classes of their images."""

    z: Float[np.ndarray, "n z"]
    labels: Int[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " m"]) -> "Codes":
        return Codes(self.z[rows], self.labels[rows])


class Mlp(nn.Module):
    """Two hidden layers with ReLU, optionally batch-normalised. (Normalised and 256 wide, it is Cycle-VAE's probe.)"""

    num_classes: int
    width: int
    normalised: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b z"], train: bool) -> Float[Array, "b n"]:
        for _ in range(2):
            x = nn.Dense(self.width)(x)
            if self.normalised:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x)


def measure_leakage(train: Codes, test: Codes, num_classes: int, epochs: int, seed: int = 0) -> Json:
    """Measures how much of the class the codes give away.

    Args:
      train: codes of images that the encoder was trained on.
      test: codes of unseen images.
      num_classes: some classes may be absent.
      epochs: of the MLPs.

    Returns:
      Accuracies of the best probe and, by setting, of all; bounds and entropies in bits.
    """
    rng = np.random.default_rng(seed)
    pairs = {"fitted_on_training_codes": [(train, test)]}
    if len(test.z) >= MIN_FOLD_CODES:
        folds = np.array_split(rng.permutation(len(test.z)), NUM_FOLDS)
        pairs["cross_validated_on_unseen_codes"] = [
            (test.take(np.concatenate(folds[:i] + folds[i + 1 :])), test.take(fold)) for i, fold in enumerate(folds)
        ]
    order = rng.permutation(len(train.z))
    cut = max(len(order) // 6, 1)
    pairs["split_of_training_codes"] = [(train.take(order[cut:]), train.take(order[:cut]))]

    probes = _probes(num_classes, epochs, seed)
    tasks = [(setting, name, *pair) for setting in pairs for name in probes for pair in pairs[setting]]
    # The longest first, so that no device waits for one at the end.
    tasks.sort(key=lambda task: -len(task[2].z) * (task[1] == "mlp_512"))
    found = each_on_a_device([functools.partial(probes[name], *_standardise(*pair)) for _, name, *pair in tasks])
    sums = {(setting, name): np.zeros(3) for setting in pairs for name in probes}
    for (setting, name, _, tested), scores in zip(tasks, found, strict=True):
        sums[setting, name] += np.array([*scores, 1]) * len(tested.z)  # each code counts once, whatever its fold's size
    means = {key: (total / total[2]).tolist() for key, total in sums.items()}
    accuracy = {setting: {name: means[setting, name][0] for name in probes} for setting in pairs}
    unseen = {key: mean for key, mean in means.items() if key[0] != "split_of_training_codes"}
    setting, best = max(unseen, key=lambda key: unseen[key][0])
    cross_entropy = min(mean[1] for mean in unseen.values())
    shares = np.bincount(test.labels, minlength=num_classes) / len(test.labels)
    entropy = float(-sum(p * np.log2(p) for p in shares if p))
    return {
        "probe_accuracy": accuracy[setting][best],  # the headline: of the best probe on unseen codes
        "best_probe": best,
        "setting": setting,
        "chance": float(shares.max()),  # share of the most frequent class
        "training_codes_accuracy": max(accuracy["split_of_training_codes"].values()),
        # A lower bound of the mutual information between code and class: H(class) - cross-entropy of a probe.
        "information_bits": max(entropy - cross_entropy / float(np.log(2)), 0.0),
        "entropy_bits": entropy,  # H(class)
        **accuracy,
    }


def _standardise(fit: Codes, test: Codes) -> tuple[Codes, Codes]:
    mean, sd = fit.z.mean(0), fit.z.std(0)
    sd = np.where(sd > 1e-12, sd, 1)
    return fit._replace(z=(fit.z - mean) / sd), test._replace(z=(test.z - mean) / sd)


def _probes(num_classes: int, epochs: int, seed: int) -> dict[str, Callable[[Codes, Codes], Scores]]:
    from sklearn.linear_model import LogisticRegression  # here, since it takes a second to import
    from sklearn.neighbors import KNeighborsClassifier

    return {
        "linear": lambda fit, test: _fit_sklearn(LogisticRegression(max_iter=500), fit, test),
        "knn_10": lambda fit, test: _fit_sklearn(
            KNeighborsClassifier(min(10, len(fit.z)), algorithm="brute"), fit, test
        ),
        "mlp_256": functools.partial(fit_mlp, Mlp(num_classes, 256, True), epochs, seed),
        "mlp_512": functools.partial(fit_mlp, Mlp(num_classes, 512, False), epochs, seed),
    }


def _fit_sklearn(model: Any, fit: Codes, test: Codes) -> Scores:
    known = np.unique(fit.labels)
    several = len(known) > 1  # scikit-learn refuses to fit a single class
    found = model.fit(*fit).predict_proba(test.z) if several else np.ones((len(test.z), 1))
    probabilities = np.zeros((len(found), max(fit.labels.max(), test.labels.max()) + 1), found.dtype)
    probabilities[:, known] = found
    right = probabilities[np.arange(len(found)), test.labels]
    # A neighbourhood without the right class would cost infinitely much; it is no estimate of a probability.
    cross_entropy = -np.log(np.maximum(right, 1e-12)).mean()
    return float(np.mean(probabilities.argmax(1) == test.labels)), float(cross_entropy)


def fit_mlp(module: Mlp, epochs: int, seed: int, fit: Codes, test: Codes) -> Scores:
    """Fits an MLP to standardised codes for at most `epochs`, and scores it on others.

    Near chance, an MLP soon learns noise by heart. So a part of `fit` chooses the epoch, for each score apart.
    """
    order = np.random.default_rng(seed).permutation(len(fit.z))
    cut = max(int(len(order) * VALIDATION_SHARE), 1)
    validation, rest = fit.take(order[:cut]), fit.take(order[cut:] if len(order) > cut else order)

    def score(variables: Variables) -> list[np.ndarray]:
        return [np.asarray(_score(module, variables, *codes)) for codes in (validation, test)]

    history = np.array(fit_classifier(module, *rest, epochs, seed, after_epoch=score)[1])
    # [epochs, validation or test, accuracy or cross-entropy]
    return float(history[history[:, 0, 0].argmax(), 1, 0]), float(history[history[:, 0, 1].argmin(), 1, 1])


@functools.partial(jax.jit, static_argnums=0)
def _score(module: Mlp, variables: Variables, z: Float[Array, "n z"], labels: Int[Array, " n"]) -> Float[Array, "2"]:
    logits = jnp.asarray(module.apply(variables, z, False))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return jnp.stack([jnp.mean(logits.argmax(1) == labels), cross_entropy])
