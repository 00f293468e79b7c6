"""The figures of an evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from infoae_jax.data.dataset import Dataset
from infoae_jax.data.rendered import Factors, render
from infoae_jax.devices.batching import model_method as model_method
from infoae_jax.evaluation.attributes import colours, has_strokes, strokes
from infoae_jax.evaluation.judges import Judges
from infoae_jax.evaluation.leakage import Codes, measure_leakage
from infoae_jax.evaluation.record import Protocol
from infoae_jax.images.pixels import to_float, to_uint8

SEED = 0  # of pairs, subsets and probes
Images = UInt8[np.ndarray, "n h w c"]
Latents = Float[np.ndarray, "n z"]
Labels = Int[np.ndarray, " n"]


class System(NamedTuple):
    """What is measured: functions on arrays of any length. `encode` receives pictures and nothing else.

    classify: the logits of each picture's class, if the system reads it.
    """

    encode: Callable[[Images], Latents]
    decode: Callable[[Latents, Labels], Float[np.ndarray, "n h w c"]]
    classify: Callable[[Images], Float[np.ndarray, "n k"]] | None = None

    def generate(self, z: Latents, labels: Labels) -> Images:
        return to_uint8(self.decode(z, labels))


class Subject(NamedTuple):
    """What all figures share, computed once."""

    system: System
    protocol: Protocol
    judges: Judges
    test: Dataset
    train: Dataset
    z: Latents  # of the test images
    z_train: Latents
    reconstruction: Float[np.ndarray, "n h w c"]
    others: Labels  # for each test image, another class
    swaps: Images  # each test image's style with that class

    @property
    def num_classes(self) -> int:
        return len(self.test.class_names)


class NotApplicable(Exception):  # noqa: N818 (it is no error)
    """Raised by a figure that makes no sense for the data at hand, with the reason."""


def leakage(s: Subject) -> dict[str, Any]:
    """See `probes`. Fooled by a latent that holds nothing, which `reconstruction` would show."""
    train, test = Codes(s.z_train, s.train.labels), Codes(s.z, s.test.labels)
    return measure_leakage(train, test, s.num_classes, s.protocol.probe_epochs, SEED)


def reconstruction(s: Subject) -> dict[str, float]:
    """Each test image redrawn with its own class.

    mse per pixel in [0, 1], of the decoder's output as it is; psnr (mean over images) and ssim of the picture.
    mse_increase_with_other_latent: how much larger the mse becomes with the latent of another image of the class; near
    0 where the decoder does not use the latent. Fooled by a large latent that keeps the class: `leakage`.
    """
    target = s.test.images
    by_image = _squared_error(s.reconstruction, target)
    partner = _others_of_class(s.test.labels)
    has_partner = partner >= 0
    foreign = s.system.decode(s.z[partner[has_partner]], s.test.labels[has_partner])
    gap = _squared_error(foreign, target[has_partner]).mean() - by_image[has_partner].mean()
    return {
        "mse": float(by_image.mean()),
        **_picture_quality(to_uint8(s.reconstruction), target),
        "mse_increase_with_other_latent": float(gap),
    }


def content(s: Subject) -> dict[str, float]:
    """content_accuracy: share of the test images whose class the system's own content classifier reads (Eq. 2)."""
    if s.system.classify is None:
        raise NotApplicable("this system does not read the class of a picture")
    return {"content_accuracy": float((s.system.classify(s.test.images).argmax(axis=1) == s.test.labels).mean())}


def transfer_accuracy(s: Subject) -> dict[str, Any]:
    """Test images with every other class (a random part where these are too many), read by the judges.

    transfer_accuracy: share read as the class asked for, mean over judges; by_judge; by_class (asked for); confusion[
    asked,
    read], in shares; judge_accuracy: on real test images. Fooled by ignoring the style: `style`. Copying the source
    gives 0.
    """
    rng = np.random.default_rng(SEED)
    count = len(s.test) * (s.num_classes - 1)
    images, asked = np.divmod(np.arange(count), s.num_classes - 1)
    asked = asked + (asked >= s.test.labels[images])
    if count > s.protocol.swaps:
        chosen = np.sort(rng.choice(count, s.protocol.swaps, replace=False))
        images, asked = images[chosen], asked[chosen]
    table = np.zeros((len(s.judges.accuracies), s.num_classes, s.num_classes))
    block = 8192  # pictures at a time, which bounds the memory
    for start in range(0, len(images), block):
        rows, labels = images[start : start + block], asked[start : start + block].astype(np.int32)
        read = s.judges.read(s.system.generate(s.z[rows], labels))
        for judge, verdict in enumerate(read):
            np.add.at(table[judge], (labels, verdict), 1)
    totals = table.sum(2, keepdims=True)
    shares = (table / np.where(totals > 0, totals, 1)).mean(0)
    return {
        "transfer_accuracy": float(np.trace(table, axis1=1, axis2=2).mean() / len(images)),
        "by_judge": [float(np.trace(t) / len(images)) for t in table],
        "by_class": [float(share) for share in np.diag(shares)],
        "confusion": shares.round(5).tolist(),
        "swaps": len(images),
        "judge_accuracy": list(s.judges.accuracies),
        "judge_threshold": s.judges.threshold,
    }


def style(s: Subject) -> dict[str, Any]:
    """Pearson's r between attributes of the style image and of its swap with another class, without class means.

    From each attribute (see `morphology`) the mean of its class is subtracted first (of a swap: of the class asked
    for), since style attributes alone predict a digit in half of the cases. `ceiling`: the same r for
    reconstructions. Fooled by copying the source: `transfer_accuracy`.
    """
    if s.test.images.shape[-1] == 3:
        measure = colours
    elif has_strokes(s.test.images):
        measure = strokes
    else:
        raise NotApplicable(
            "stroke shape is measured on bright strokes with a dark border, which these grey images have not"
        )
    real, swapped = measure(s.test.images), measure(s.swaps)
    redrawn = measure(to_uint8(s.reconstruction))
    result: dict[str, Any] = {"correlation": {}, "ceiling": {}, "swaps": len(s.swaps)}
    for name in real:
        source = _residual(real[name], s.test.labels)
        result["correlation"][name] = _correlation(source, _residual(swapped[name], s.others))
        result["ceiling"][name] = _correlation(source, _residual(redrawn[name], s.test.labels))
    if measure is strokes:
        result["swaps_without_stroke"] = int(np.isnan(swapped["area"]).sum())
    else:  # the distance in CIELAB that a person sees
        for ground in ("background", "foreground"):
            names = [f"{ground}_{c}" for c in "lab"]
            squares = sum((swapped[name] - real[name]) ** 2 for name in names)
            result[f"{ground}_delta_e"] = float(np.sqrt(squares).mean())
    return result


def counterfactual(s: Subject) -> dict[str, float]:
    """Embedded data only: swaps against the true pictures of the same style with the other digit.

    The noise in the true picture cannot be foreseen, so a perfect system has an error as well: compare with
    `reconstruction`.
    """
    if not s.test.factors:
        raise NotApplicable("the true picture of a style with another class is known for the embedded data set only")
    truth = render(Factors(**s.test.factors), s.others)
    return {"mse": float(_squared_error(s.swaps, truth).mean()), **_picture_quality(s.swaps, truth)}


def composition(s: Subject) -> dict[str, float]:
    """Null swaps: each picture encoded and drawn with its own class, once and ten times over.

    l1_after_1, l1_after_10: mean absolute difference to the original, on 0..255. accuracy_after_10: read as its class
    by the judges at the end. A constant picture does not change either, hence the comparison with the original.
    """
    pictures, result = s.test.images, {}
    for i in range(1, 11):
        pictures = s.system.generate(s.system.encode(pictures), s.test.labels)
        if i in (1, 10):
            difference = np.abs(pictures.astype(np.int16) - s.test.images.astype(np.int16))
            result[f"l1_after_{i}"] = float(difference.mean(dtype=np.float64))
    result["accuracy_after_10"] = float((s.judges.read(pictures) == s.test.labels).mean())
    return result


def reversibility(s: Subject) -> dict[str, float]:
    """A swap swapped back: mse against the original, and r2 of the latent encoded from the swap.

    `blurred_*`: the same if the swap is blurred a little (standard deviation half a pixel) first, which destroys what
    could be hidden in faint pixels.
    """
    from scipy.ndimage import gaussian_filter

    result = {}
    blurred = to_uint8(gaussian_filter(s.swaps.astype(np.float32) / 255, sigma=0.5, axes=(1, 2)))
    for prefix, pictures in (("", s.swaps), ("blurred_", blurred)):
        z = s.system.encode(pictures)
        back = s.system.decode(z, s.test.labels)
        result[f"{prefix}mse"] = float(_squared_error(back, s.test.images).mean())
        spread = ((s.z - s.z.mean(0)) ** 2).sum()
        result[f"{prefix}r2"] = float(1 - ((z - s.z) ** 2).sum() / spread) if spread > 0 else float("nan")
    return result


def realism(s: Subject) -> dict[str, float]:
    """Swaps against real test images, in the features of the first judge.

    frechet_distance: of two Gaussians (Heusel et al. 2017; the features are not Inception's); floor: of real training
    images to the test images, as many; reconstruction: of reconstructions. precision, recall: k = 3 (Kynkäänniemi et
    al. 2019). All depend on the number of images.
    """
    most = 10_000
    chosen = np.random.default_rng(SEED).permutation(min(len(s.test), len(s.train)))[:most]
    if len(chosen) < 200:
        raise NotApplicable(f"a distance of distributions needs 200 test images or more, and there are {len(chosen)}")
    real, swaps = s.judges.features(s.test.images[chosen]), s.judges.features(s.swaps[chosen])
    floor = s.judges.features(s.train.images[chosen])
    redrawn = s.judges.features(to_uint8(s.reconstruction[chosen]))
    return {
        "frechet_distance": _frechet(swaps, real),
        "frechet_distance_real_images": _frechet(floor, real),
        "frechet_distance_reconstructions": _frechet(redrawn, real),
        "precision": _coverage(real, swaps),
        "recall": _coverage(swaps, real),
        "images": len(chosen),
    }


FIGURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "leakage": leakage,
    "reconstruction": reconstruction,
    "content": content,
    "transfer": transfer_accuracy,
    "style": style,
    "counterfactual": counterfactual,
    "composition": composition,
    "reversibility": reversibility,
    "realism": realism,
}
JUDGED = ("transfer", "realism")  # and composition's accuracy: worth as much as the judges


def _squared_error(images: np.ndarray, target: np.ndarray) -> Float[np.ndarray, " n"]:
    """Mean over the pixels of each image, in [0, 1] units."""
    return ((to_float(images) - to_float(target)) ** 2).mean((1, 2, 3), dtype=np.float64)


def _picture_quality(pictures: Images, target: Images) -> dict[str, float]:
    """psnr (dB, mean over images; one that is equal in all pixels counts as one step in one pixel) and ssim."""
    from skimage.metrics import structural_similarity

    least = 1 / 255**2 / np.prod(target.shape[1:])
    psnr = -10 * np.log10(np.maximum(_squared_error(pictures, target), least))
    # Wang et al. 2004: Gaussian windows with standard deviation 1.5, colours apart.
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    rows = np.random.default_rng(SEED).permutation(len(target))[:2000]  # one image at a time takes a millisecond
    similar = [structural_similarity(pictures[i], target[i], channel_axis=-1, **options) for i in rows]
    return {"psnr": float(psnr.mean()), "ssim": float(np.mean(similar))}


def _others_of_class(labels: Labels) -> Int[np.ndarray, " n"]:
    """For each image the index of another of its class, -1 where there is none."""
    partner = np.full(len(labels), -1)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        if len(members) > 1:
            partner[members] = np.roll(members, 1)
    return partner


def _residual(values: np.ndarray, classes: Labels) -> np.ndarray:
    result = values.copy()
    for c in np.unique(classes):
        members = values[classes == c]
        result[classes == c] -= np.nanmean(members) if np.isfinite(members).any() else 0
    return result


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over the entries that both have; NaN where one of them is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with the covariances A and B."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    value, vector = np.linalg.eigh(cov_a)
    root = vector * np.sqrt(np.maximum(value, 0)) @ vector.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _coverage(manifold: np.ndarray, points: np.ndarray, k: int = 3) -> float:
    """Share of `points` within the k-th neighbour's distance of some point of `manifold`."""
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    radius = NearestNeighbors(n_neighbors=k + 1).fit(manifold).kneighbors(manifold)[0][:, -1]
    inside = [(chunk <= radius).any(1) for chunk in pairwise_distances_chunked(points, manifold)]
    return float(np.concatenate(inside).mean())
