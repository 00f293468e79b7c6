"""The metrics of an evaluation: what each of them is, what would fool it, and which other figure would show that."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from infoae_jax.data.dataset import Splits
from infoae_jax.data.rendered import Factors, render
from infoae_jax.evaluation.attributes import Attributes, colours, has_strokes, strokes
from infoae_jax.evaluation.judges import Images, Judges
from infoae_jax.evaluation.probes import Codes, measure_leakage
from infoae_jax.evaluation.record import GROUNDS, Protocol
from infoae_jax.images.pixels import to_float, to_uint8
from infoae_jax.types import Json

SEED = 0  # of pairs, subsets and probes
JUDGED_AT_ONCE = 8192  # swaps, which bounds the memory
MAX_SSIM_IMAGES = 2000  # each takes a millisecond
MIN_REALISM_IMAGES, MAX_REALISM_IMAGES = 200, 10_000
Labels = Int[np.ndarray, " n"]
Latents = Float[np.ndarray, "n z"]
Groups: TypeAlias = Int[np.ndarray, " n"] | None  # of the test images, such as their writers


class System(NamedTuple):
    """What is measured: functions on arrays of any length."""

    encode: Callable[[Images], Latents]  # given nothing but the images
    decode: Callable[[Latents, Labels], Float[np.ndarray, "n h w c"]]  # images in [0, 1], not clipped
    classify: Callable[[Images], Float[np.ndarray, "n k"]] | None = None  # logits, if it has a classifier

    def generate(self, z: Latents, labels: Labels) -> Images:
        """Decodes to images as they would be saved: clipped, and rounded to 8 bits."""
        return to_uint8(self.decode(z, labels))


class NotApplicable(Exception):  # noqa: N818 (it is no error)
    """Raised by a figure that makes no sense for the data at hand, with the reason."""


class Subject:
    """What all figures share, computed once: a system with its codes, reconstructions and swaps of test images."""

    def __init__(self, system: System, splits: Splits, judges: Judges, protocol: Protocol, groups: Groups = None):
        rng = np.random.default_rng(SEED)
        self.system, self.judges, self.protocol = system, judges, protocol
        rows = _choose(len(splits.test), protocol.test_images, rng)
        self.test, self.groups = splits.test[rows], None if groups is None else groups[rows]
        self.train = splits.train[_choose(len(splits.train), protocol.train_codes, rng)]
        self.num_classes = len(self.test.class_names)
        self.z, self.z_train = system.encode(self.test.images), system.encode(self.train.images)
        others = self.test.labels + rng.integers(1, self.num_classes, len(self.test))
        self.others = (others % self.num_classes).astype(np.int32)  # for each test image, another class
        self.reconstruction = system.decode(self.z, self.test.labels)
        self.swaps = system.generate(self.z, self.others)  # each test image's style with the other class


def leakage(s: Subject) -> Json:
    """How much of the class probes read from the latents: see `probes.measure_leakage`.

    Fooled by a latent that holds nothing: `reconstruction` would show it.
    """
    train, test = Codes(s.z_train, s.train.labels), Codes(s.z, s.test.labels)
    return measure_leakage(train, test, s.num_classes, s.protocol.probe_epochs, SEED, s.groups)


def reconstruction(s: Subject) -> Json:
    """Each test image decoded from its own latent and class.

    Fooled by a large latent, which keeps the class as well: `leakage` would show it. If the decoder ignores the latent,
    `mse_increase_with_other_latent` is near 0: the increase with the latent of another image of the class.
    """
    target, partner = s.test.images, another_of_class(s.test.labels)
    errors = _squared_error(s.reconstruction, target)
    rows = partner >= 0
    foreign = s.system.decode(s.z[partner[rows]], s.test.labels[rows])
    increase = _squared_error(foreign, target[rows]).mean() - errors[rows].mean()
    return {
        "mse": float(errors.mean()),  # of the decoder's output, before it is clipped
        **_quality(to_uint8(s.reconstruction), target),
        "mse_increase_with_other_latent": float(increase),
    }


def content(s: Subject) -> Json:
    """Share of the test images whose class the system's own content classifier reads (Eq. 2)."""
    if s.system.classify is None:
        raise NotApplicable("this system has no classifier")
    return {"content_accuracy": float((s.system.classify(s.test.images).argmax(axis=1) == s.test.labels).mean())}


def transfer(s: Subject) -> Json:
    """Test images with every other class (a random part if there are too many), read by the judges.

    Copying the source gives 0. Fooled by ignoring the style: `style` would show it.
    """
    chosen = _choose(len(s.test) * (s.num_classes - 1), s.protocol.swaps, np.random.default_rng(SEED))
    source, asked = np.divmod(chosen, s.num_classes - 1)
    asked = (asked + (asked >= s.test.labels[source])).astype(np.int32)
    table = np.zeros((len(s.judges.accuracies), s.num_classes, s.num_classes))
    for start in range(0, len(source), JUDGED_AT_ONCE):
        rows = slice(start, start + JUDGED_AT_ONCE)
        read = s.judges.predict(s.system.generate(s.z[source[rows]], asked[rows]))
        np.add.at(table, (np.arange(len(table))[:, None], asked[rows], read), 1)
    shares = (table / np.maximum(table.sum(2, keepdims=True), 1)).mean(0)
    return {
        "transfer_accuracy": float(np.trace(table, axis1=1, axis2=2).mean() / len(source)),  # mean over judges
        "by_judge": [float(np.trace(t) / len(source)) for t in table],
        "by_class": np.diag(shares).tolist(),  # by the class asked for
        "confusion": shares.round(5).tolist(),  # a row for each class asked for, a column for each class read
        "swaps": len(source),
        "judge_accuracy": list(s.judges.accuracies),  # on real test images
        "judge_threshold": s.judges.threshold,
    }


def style(s: Subject) -> Json:
    """Pearson's r of attributes (see `attributes`) between each test image and its swap with another class.

    From each attribute the mean of its class is subtracted first (of a swap: of the class asked for), as style
    attributes alone predict a digit in half of the cases. `ceiling` is the same for reconstructions. Of colours, whose
    correlation hides what becomes of rare ones, `colour_error` says by how much they differ. Fooled by copying the
    source: `transfer` would show it.
    """
    if s.test.images.shape[-1] != 3 and not has_strokes(s.test.images):
        raise NotApplicable("stroke shape needs bright strokes on a dark border, which these grey images do not have")
    measure = colours if s.test.images.shape[-1] == 3 else strokes
    real, swapped, again = (measure(images) for images in (s.test.images, s.swaps, to_uint8(s.reconstruction)))
    result: Json = {"correlation": {}, "ceiling": {}, "swaps": len(s.swaps)}
    for name in real:
        source = subtract_class_means(real[name], s.test.labels)
        result["correlation"][name] = correlation(source, subtract_class_means(swapped[name], s.others))
        result["ceiling"][name] = correlation(source, subtract_class_means(again[name], s.test.labels))
    if measure is strokes:
        return result | {"swaps_without_stroke": int(np.isnan(swapped["area"]).sum())}
    shown = {"swaps": swapped, "reconstructions": again}
    errors = {name: {g: _colour_error(real, found, g) for g in GROUNDS} for name, found in shown.items()}
    return result | {"colour_error": errors}


def _colour_error(real: Attributes, shown: Attributes, ground: str) -> dict[str, float]:
    """Distances in CIELAB (Delta E of 1976) between the colours of images and of what became of them.

    `colourful_tenth` is the mean for the tenth of the images whose colour has the highest chroma; `chroma_kept`, the
    share of it that is left in them.
    """
    before, after = (np.stack([values[f"{ground}_{c}"] for c in "lab"], axis=1) for values in (real, shown))
    distance = np.linalg.norm(after - before, axis=1)
    chroma, left = (np.linalg.norm(colours[:, 1:], axis=1) for colours in (before, after))
    vivid = chroma >= np.quantile(chroma, 0.9)
    return {
        "mean": float(distance.mean()),
        "median": float(np.median(distance)),
        "percentile_90": float(np.quantile(distance, 0.9)),
        "colourful_tenth": float(distance[vivid].mean()),
        "chroma_kept": float(left[vivid].mean() / max(chroma[vivid].mean(), 1e-9)),
    }


def counterfactual(s: Subject) -> Json:
    """Swaps against the true images of that style with that digit; rendered data only.

    Nobody can foresee the noise of the true image, so even a perfect system has an error: it would reach `best_psnr`.
    """
    if not s.test.factors:
        raise NotApplicable("the true image of a style with another class is known for the rendered data set only")
    factors = Factors(**s.test.factors)
    truth = render(factors, s.others)
    clean = render(dataclasses.replace(factors, noise=np.zeros_like(factors.noise)), s.others)
    return {
        "mse": float(_squared_error(s.swaps, truth).mean()),
        **_quality(s.swaps, truth),
        "best_psnr": _psnr(clean, truth),
    }


def composition(s: Subject) -> Json:
    """Null swaps: each test image encoded and decoded with its own class, once and ten times in a row.

    `l1_*` is the mean absolute difference from the original on 0..255, since a constant image does not change either.
    `accuracy_after_10` is the share that the judges then read as the class.
    """
    images, result = s.test.images, {}
    for i in range(1, 11):
        images = s.system.generate(s.system.encode(images), s.test.labels)
        if i in (1, 10):
            difference = np.abs(images.astype(np.int16) - s.test.images.astype(np.int16))
            result[f"l1_after_{i}"] = float(difference.mean(dtype=np.float64))
    return result | {"accuracy_after_10": float((s.judges.predict(images) == s.test.labels).mean())}


def reversibility(s: Subject) -> Json:
    """Each swap, encoded and decoded with the source's class: mse from the source, and r2 of the latent.

    Fooled by hiding the source in faint pixels: `blurred_*`, the same after a blur with a standard deviation of half a
    pixel, would show it.
    """
    from scipy.ndimage import gaussian_filter  # here, as it is slow to import

    result = {}
    blurred = to_uint8(gaussian_filter(to_float(s.swaps), sigma=0.5, axes=(1, 2)))
    spread = ((s.z - s.z.mean(0)) ** 2).sum()
    for prefix, images in (("", s.swaps), ("blurred_", blurred)):
        z = s.system.encode(images)
        result[f"{prefix}mse"] = float(_squared_error(s.system.decode(z, s.test.labels), s.test.images).mean())
        result[f"{prefix}r2"] = float(1 - ((z - s.z) ** 2).sum() / spread) if spread > 0 else float("nan")
    return result


def realism(s: Subject) -> Json:
    """Swaps against real test images in the features of the first judge; all values depend on the number of images.

    Fréchet distance: Heusel et al. 2017, with other features than Inception's. Precision and recall: Kynkäänniemi et
    al. 2019. For comparison, the distance of as many real training images, and of reconstructions.
    """
    chosen = np.random.default_rng(SEED).permutation(min(len(s.test), len(s.train)))[:MAX_REALISM_IMAGES]
    if len(chosen) < MIN_REALISM_IMAGES:
        raise NotApplicable(f"distributions need at least {MIN_REALISM_IMAGES} images, and there are {len(chosen)}")
    compared = (s.test.images, s.swaps, s.train.images, to_uint8(s.reconstruction))
    real, swaps, training, again = (s.judges.features(images[chosen]) for images in compared)
    return {
        "frechet_distance": frechet_distance(swaps, real),
        "frechet_distance_real_images": frechet_distance(training, real),
        "frechet_distance_reconstructions": frechet_distance(again, real),
        "precision": coverage(real, swaps),
        "recall": coverage(swaps, real),
        "images": len(chosen),
    }


_ALL = (leakage, reconstruction, content, transfer, style, counterfactual, composition, reversibility, realism)
FIGURES: dict[str, Callable[[Subject], Json]] = {figure.__name__: figure for figure in _ALL}
JUDGED = ("transfer", "realism")  # and composition's accuracy: worth as much as the judges


def _choose(count: int, maximum: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    return np.arange(count) if count <= maximum else np.sort(rng.choice(count, maximum, replace=False))


def _squared_error(images: np.ndarray, target: Images) -> Float[np.ndarray, " n"]:
    """Mean over the pixels of each image, in [0, 1] units."""
    return ((to_float(images) - to_float(target)) ** 2).mean((1, 2, 3), dtype=np.float64)


def _quality(images: Images, target: Images) -> dict[str, float]:
    """psnr and ssim (Wang et al. 2004)."""
    from skimage.metrics import structural_similarity  # here, as it is slow to import

    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    rows = np.random.default_rng(SEED).permutation(len(target))[:MAX_SSIM_IMAGES]
    ssim = [structural_similarity(images[i], target[i], channel_axis=-1, **options) for i in rows]
    return {"psnr": _psnr(images, target), "ssim": float(np.mean(ssim))}


def _psnr(images: Images, target: Images) -> float:
    """In dB, the mean over images; equal ones count as if one pixel were a step off."""
    min_error = 1 / 255**2 / np.prod(target.shape[1:])
    return float((-10 * np.log10(np.maximum(_squared_error(images, target), min_error))).mean())


def another_of_class(labels: Labels) -> Int[np.ndarray, " n"]:
    """For each image the index of another image of its class, -1 if there is none."""
    partner = np.full(len(labels), -1)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        if len(members) > 1:
            partner[members] = np.roll(members, 1)
    return partner


def subtract_class_means(values: Float[np.ndarray, " n"], classes: Labels) -> Float[np.ndarray, " n"]:
    """Subtracts from each value the mean of its class, in which NaN does not count."""
    result = values.copy()
    for c in np.unique(classes):
        members = values[classes == c]
        result[classes == c] -= np.nanmean(members) if np.isfinite(members).any() else 0
    return result


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over the entries that are finite in both; NaN if one of them is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def frechet_distance(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with the covariances A and B."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    value, vector = np.linalg.eigh(cov_a)
    root = vector * np.sqrt(np.maximum(value, 0)) @ vector.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def coverage(manifold: Float[np.ndarray, "n f"], points: Float[np.ndarray, "m f"], k: int = 3) -> float:
    """Share of `points` that lie no farther from some point of `manifold` than its k-th neighbour there."""
    from sklearn.metrics import pairwise_distances_chunked  # here, as it is slow to import
    from sklearn.neighbors import NearestNeighbors

    radius = NearestNeighbors(n_neighbors=k + 1).fit(manifold).kneighbors(manifold)[0][:, -1]
    inside = [(chunk <= radius).any(1) for chunk in pairwise_distances_chunked(points, manifold)]
    return float(np.concatenate(inside).mean())
