"""Leakage: how well the class can be read from frozen style latents, by probes trained afterwards.

The accuracy of the adversary during training proves nothing (Elazar & Goldberg 2018): it is beaten by construction.
Here four families of fresh probes try again on the very tensor that the decoder receives, standardised, and the best of
them counts. Two questions are kept apart, since probes (and encoders) know the images they were trained on:

* fitted on codes of training images, tested on codes of unseen ones (`train_fitted`); or fitted and tested on unseen
  ones by five folds (`cross_validated`). The larger of both is the headline.
* fitted and tested on codes of training images, by one split (`training_codes`): what an encoder that overfits gives
  away about its own training images.
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

from infoae_jax.evaluation.classifier import Recipe, each_on_a_device, fit_classifier

FOLDS = 5
FEWEST = 50  # codes of unseen images below which folds say nothing
_VALIDATION_SHARE = 0.1  # of the codes to fit on, by which an MLP's epoch is chosen


class Codes(NamedTuple):
    """Style latents and the classes of the images that they are of."""

    z: Float[np.ndarray, "n z"]
    labels: Int[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " m"]) -> "Codes":
        return Codes(self.z[rows], self.labels[rows])


class Mlp(nn.Module):
    """Two hidden layers with ReLU, optionally batch-normalised (256-256 with it is Cycle-VAE's probe)."""

    num_classes: int
    width: int
    normalised: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b z"], train: bool) -> tuple[Float[Array, "b n"], Float[Array, "b w"]]:
        for _ in range(2):
            x = nn.Dense(self.width)(x)
            if self.normalised:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x), x


def measure_leakage(train: Codes, test: Codes, num_classes: int, epochs: int, seed: int = 0) -> dict[str, Any]:
    """How much of the class the codes give away.

    Args:
      train: codes of images that the encoder was trained on; test: of unseen images.
      epochs: of the MLPs.

    Returns:
      probe_accuracy: the headline, best over probes, `train_fitted` or `cross_validated` (`fitted_on` says which);
      chance: share of
      the most frequent class in `test`; `training_codes_accuracy`; information_bits: best lower bound of the mutual
      information
      between code and class, H(class) - cross-entropy of a probe, at least 0; entropy_bits: H(class).
      Accuracy by probe under `train_fitted`, `cross_validated` (absent for fewer than 50 test codes) and
      `training_codes`.
    """
    rng = np.random.default_rng(seed)
    jobs: dict[str, list[tuple[Codes, Codes]]] = {"train_fitted": [(train, test)]}
    if len(test.z) >= FEWEST:
        folds = np.array_split(rng.permutation(len(test.z)), FOLDS)
        jobs["cross_validated"] = [
            (test.take(np.concatenate(folds[:i] + folds[i + 1 :])), test.take(folds[i])) for i in range(FOLDS)
        ]
    order = rng.permutation(len(train.z))
    cut = max(len(order) // 6, 1)
    jobs["training_codes"] = [(train.take(order[cut:]), train.take(order[:cut]))]

    probes = _probes(num_classes, epochs, seed)
    tasks = [(kind, name, job) for kind, pairs in jobs.items() for name in probes for job in pairs]
    # The longest first, so that no device waits for one at the end.
    tasks.sort(key=lambda task: -len(task[2][0][0]) * (task[1] == "mlp_512"))
    found = each_on_a_device([functools.partial(probes[name], *_standardised(*job)) for _kind, name, job in tasks])
    accuracy: dict[str, dict[str, float]] = {}
    cross_entropy: dict[str, dict[str, float]] = {}
    for kind in jobs:
        for name in probes:
            results = [(r, len(t[2][1][0])) for r, t in zip(found, tasks, strict=True) if t[:2] == (kind, name)]
            count = sum(n for _, n in results)  # each test code counts once, whatever the size of its fold
            accuracy.setdefault(kind, {})[name] = sum(r[0] * n for r, n in results) / count
            cross_entropy.setdefault(kind, {})[name] = sum(r[1] * n for r, n in results) / count

    unseen = [kind for kind in jobs if kind != "training_codes"]
    best = max(unseen, key=lambda kind: max(accuracy[kind].values()))
    shares = np.bincount(test[1], minlength=num_classes) / len(test[1])
    entropy = float(-sum(p * np.log2(p) for p in shares if p))
    least = min(min(cross_entropy[kind].values()) for kind in unseen)
    return {
        "probe_accuracy": max(accuracy[best].values()),
        "probe": max(accuracy[best], key=lambda name: accuracy[best][name]),
        "fitted_on": best,
        "chance": float(shares.max()),
        "training_codes_accuracy": max(accuracy["training_codes"].values()),
        "information_bits": max(entropy - least / float(np.log(2)), 0.0),
        "entropy_bits": entropy,
        **accuracy,
    }


def _standardised(fit: Codes, test: Codes) -> tuple[Codes, Codes]:
    mean, sd = fit.z.mean(0), fit.z.std(0)
    sd = np.where(sd > 1e-12, sd, 1)
    return fit._replace(z=(fit.z - mean) / sd), test._replace(z=(test.z - mean) / sd)


# A probe is fitted on the first and returns accuracy and cross-entropy (nats) on the second.
_Probe = Callable[[Codes, Codes], tuple[float, float]]


def _probes(num_classes: int, epochs: int, seed: int) -> dict[str, _Probe]:
    from sklearn.linear_model import LogisticRegression  # here, since it takes a second to import
    from sklearn.neighbors import KNeighborsClassifier

    return {
        "linear": functools.partial(_sklearn, LogisticRegression(max_iter=500)),
        "knn_10": functools.partial(_sklearn, KNeighborsClassifier(10, algorithm="brute")),
        "mlp_256": functools.partial(_mlp, Mlp(num_classes, 256, True), epochs, seed),
        "mlp_512": functools.partial(_mlp, Mlp(num_classes, 512, False), epochs, seed),
    }


def _sklearn(template: Any, fit: Codes, test: Codes) -> tuple[float, float]:
    from sklearn.base import clone

    model = clone(template)
    if hasattr(model, "n_neighbors"):
        model.set_params(n_neighbors=min(model.n_neighbors, len(fit.z)))
    known = np.unique(fit[1])
    if len(known) == 1:  # scikit-learn refuses to tell one class from no other
        return float(np.mean(test[1] == known[0])), float("inf")
    model.fit(*fit)
    probabilities = model.predict_proba(test[0])
    accuracy = np.mean(model.classes_[probabilities.argmax(1)] == test[1])
    column = np.searchsorted(model.classes_, test[1]).clip(max=len(model.classes_) - 1)
    right = np.where(model.classes_[column] == test[1], probabilities[np.arange(len(test[1])), column], 0)
    # A neighbourhood without the right class would cost infinitely much; it is no estimate of a probability.
    return float(accuracy), float(-np.log(np.maximum(right, 1e-12)).mean())


def _mlp(module: Mlp, epochs: int, seed: int, fit: Codes, test: Codes) -> tuple[float, float]:
    """The epoch is chosen on a part of the codes to fit on: near chance, an MLP soon learns noise by heart."""
    order = np.random.default_rng(seed).permutation(len(fit.z))
    cut = max(int(len(order) * _VALIDATION_SHARE), 1)
    held, rest = fit.take(order[:cut]), fit.take(order[cut:] if len(order) > cut else order)

    def scores(variables: Any) -> list[float]:
        return [float(value) for codes in (held, test) for value in _scores(module, variables, *codes)]

    recipe = Recipe(epochs, batch_size=256 if len(rest.z) >= 2048 else 32)
    _, history = fit_classifier(module, rest[0], rest[1], recipe, seed, after_epoch=scores)
    table = np.array(history)  # epoch; accuracy and cross-entropy when held out; the same on the test codes
    return float(table[table[:, 0].argmax(), 2]), float(table[table[:, 1].argmin(), 3])


@functools.partial(jax.jit, static_argnums=0)
def _scores(
    module: Mlp, variables: Any, codes: Float[Array, "n z"], labels: Int[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    logits, _ = module.apply(variables, codes, False)
    accuracy = jnp.mean(logits.argmax(1) == labels)
    return accuracy, optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
