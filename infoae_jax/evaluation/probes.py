"""Leakage: how well fresh probes read the class from frozen style latents.

The adversary's accuracy during training proves nothing (Elazar & Goldberg 2018): the encoder is trained to beat it.
Here four new probes are fitted to the very tensor that the decoder receives, standardised, and the best one counts.
Who attacks decides what is read, so three protocols are kept apart, and all are read on codes of unseen images:

* (a) `fitted_on_training_codes`: of images that the encoder was trained on. Most of the literature does this.
* (b) `folds_by_group`: five folds of unseen images, with no group, such as a writer, on both sides. (Needs groups.)
* (c) `folds_at_random`: five folds of unseen images: an attacker who knows the same writers.

`split_of_training_codes` (fitted and read on codes of training images, split once) shows besides what an encoder that
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
from jaxtyping import Array, Bool, Float, Int

from infoae_jax.data.groups import NUM_FOLDS
from infoae_jax.evaluation.classifier import each_on_a_device, fit_classifier
from infoae_jax.types import Json, Variables

MIN_FOLD_CODES = 50  # with fewer codes of unseen images, folds say nothing
VALIDATION_SHARE = 0.1  # of the codes that an MLP is fitted to, by which its epoch is chosen
MAX_DISTANCE = 3.0  # of a code from the middle, times the distance within which nine in ten codes are
RESAMPLES = 1000  # of the bootstrap
PROTOCOLS = "fitted_on_training_codes", "folds_by_group", "folds_at_random"


class Scores(NamedTuple):
    """How a probe reads each code: whether it is right, and the cross-entropy in nats."""

    right: Bool[np.ndarray, " n"]
    cross_entropy: Float[np.ndarray, " n"]


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


def measure_leakage(
    train: Codes, test: Codes, num_classes: int, epochs: int, seed: int = 0, groups: Int[np.ndarray, " n"] | None = None
) -> Json:
    """Measures how much of the class the codes give away.

    Args:
      train: codes of images that the encoder was trained on.
      test: codes of unseen images.
      num_classes: some classes may be absent.
      epochs: of the MLPs.
      groups: of each of `test`, such as its writer's number.

    Returns:
      Accuracies of the best probe and, by protocol, of all, with intervals of 95 % (bootstrap over groups, or over
      images where there are none: Efron 1979); bounds and entropies in bits.
    """
    rng, count = np.random.default_rng(seed), len(test.z)
    everything = np.arange(count)
    tasks = {"fitted_on_training_codes": [(train, test, everything)]}
    parts = {"folds_at_random": np.array_split(rng.permutation(count), NUM_FOLDS)}
    if groups is not None and len(np.unique(groups)) < NUM_FOLDS:
        groups = None  # nor do they say how uncertain a mean is
    if groups is not None:
        shares = np.array_split(rng.permutation(np.unique(groups)), NUM_FOLDS)
        parts["folds_by_group"] = [np.flatnonzero(np.isin(groups, share)) for share in shares]
    for protocol, folds in parts.items() if count >= MIN_FOLD_CODES else ():
        tasks[protocol] = [(test.take(np.setdiff1d(everything, fold)), test.take(fold), fold) for fold in folds]
    order = rng.permutation(len(train.z))
    cut = max(len(order) // 6, 1)
    rest, held = train.take(order[cut:]), train.take(order[:cut])
    tasks["split_of_training_codes"] = [(rest, held, np.arange(cut))]

    probes = _probes(num_classes, epochs, seed)
    flat = [(protocol, name, *task) for protocol in tasks for name in probes for task in tasks[protocol]]
    # The longest first, so that no device waits for one at the end.
    flat.sort(key=lambda task: -len(task[2].z) * (task[1] == "mlp_512"))
    found = each_on_a_device([functools.partial(probes[name], *_standardise(*pair)) for _, name, *pair, _ in flat])
    right = {(protocol, name): np.zeros(sum(len(t[2]) for t in tasks[protocol])) for protocol, name, *_ in flat}
    nats = {key: np.zeros_like(values) for key, values in right.items()}
    for (protocol, name, _, _, rows), scores in zip(flat, found, strict=True):
        right[protocol, name][rows], nats[protocol, name][rows] = scores
    accuracy = {protocol: {name: float(right[protocol, name].mean()) for name in probes} for protocol in tasks}
    best = {protocol: max(found, key=found.__getitem__) for protocol, found in accuracy.items()}
    unseen = [protocol for protocol in PROTOCOLS if protocol in tasks]
    highest = max(unseen, key=lambda protocol: accuracy[protocol][best[protocol]])
    cross_entropy = min(float(nats[protocol, name].mean()) for protocol in unseen for name in probes)
    class_shares = np.bincount(test.labels, minlength=num_classes) / count
    entropy = float(-sum(p * np.log2(p) for p in class_shares if p))
    return {
        "probe_accuracy": accuracy[highest][best[highest]],  # the headline: of the best probe on unseen codes
        "best_probe": best[highest],
        "protocol": highest,
        "chance": float(class_shares.max()),  # share of the most frequent class
        "training_codes_accuracy": max(accuracy["split_of_training_codes"].values()),
        # A lower bound of the mutual information between code and class: H(class) - cross-entropy of a probe.
        "information_bits": max(entropy - cross_entropy / float(np.log(2)), 0.0),
        "entropy_bits": entropy,  # H(class)
        **({} if groups is None else {"groups": len(np.unique(groups))}),
        "highest": {protocol: accuracy[protocol][best[protocol]] for protocol in unseen},
        "interval": {protocol: _interval(right[protocol, best[protocol]], groups, seed) for protocol in unseen},
        **accuracy,
    }


def _interval(right: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None, seed: int) -> list[float]:
    """Bounds of a mean, from resampled groups."""
    _, member = np.unique(np.arange(len(right)) if groups is None else groups, return_inverse=True)
    sums, sizes = np.bincount(member, right), np.bincount(member)
    rng, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    return np.quantile(means, (0.025, 0.975)).tolist()


def _standardise(fit: Codes, test: Codes) -> tuple[Codes, Codes]:
    """Both by the mean and deviation of `fit`, once codes far out are pulled in: a few could blind all probes."""
    middle = np.median(fit.z, axis=0)
    farthest = MAX_DISTANCE * (float(np.quantile(_distances(fit.z, middle), 0.9)) or np.inf)
    near, seen = (_pull_in(codes.z, middle, farthest) for codes in (fit, test))
    mean, sd = near.mean(0), near.std(0)
    sd = np.where(sd > 1e-12, sd, 1)
    return fit._replace(z=(near - mean) / sd), test._replace(z=(seen - mean) / sd)


def _pull_in(z: Float[np.ndarray, "n z"], middle: Float[np.ndarray, " z"], farthest: float) -> Float[np.ndarray, "n z"]:
    shares = np.minimum(farthest / np.maximum(_distances(z, middle), 1e-12), 1)
    return np.where(shares < 1, middle + (z - middle) * shares, z).astype(z.dtype)


def _distances(z: Float[np.ndarray, "n z"], middle: Float[np.ndarray, " z"]) -> Float[np.ndarray, "n 1"]:
    return np.linalg.norm(z - middle, axis=1, keepdims=True)


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
    chosen = probabilities[np.arange(len(found)), test.labels]
    # A neighbourhood without the right class would cost infinitely much; it is no estimate of a probability.
    return Scores(probabilities.argmax(1) == test.labels, -np.log(np.maximum(chosen, 1e-12)))


def fit_mlp(module: Mlp, epochs: int, seed: int, fit: Codes, test: Codes) -> Scores:
    """Fits an MLP to standardised codes for at most `epochs`, and scores it on others.

    Near chance, an MLP soon learns noise by heart. So a part of `fit` chooses the epoch, for each score apart.
    """
    order = np.random.default_rng(seed).permutation(len(fit.z))
    cut = max(int(len(order) * VALIDATION_SHARE), 1)
    validation, rest = fit.take(order[:cut]), fit.take(order[cut:] if len(order) > cut else order)

    def score(variables: Variables) -> list[Scores]:
        return [Scores(*map(np.asarray, _score(module, variables, *codes))) for codes in (validation, test)]

    history = fit_classifier(module, *rest, epochs, seed, after_epoch=score)[1]
    accurate = max(history, key=lambda scores: scores[0].right.mean())  # of equal ones the first
    sure = min(history, key=lambda scores: scores[0].cross_entropy.mean())
    return Scores(accurate[1].right, sure[1].cross_entropy)


@functools.partial(jax.jit, static_argnums=0)
def _score(
    module: Mlp, variables: Variables, z: Float[Array, "n z"], labels: Int[Array, " n"]
) -> tuple[Bool[Array, " n"], Float[Array, " n"]]:
    logits = jnp.asarray(module.apply(variables, z, False))
    return logits.argmax(1) == labels, optax.softmax_cross_entropy_with_integer_labels(logits, labels)
