"""Honest figures of a finished run: what it leaks, transfers and keeps, measured after training.

Nothing here was part of a training loss. Every figure takes the same system, with the same settings, on unseen images;
the probes see the very tensor that the decoder receives; swaps are clipped and rounded to 8 bits before anything reads
them, as a picture is when it is saved. What every figure is, how it can be fooled, and by which other figure that would
show, is written beside its function.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from infoae_jax import data, morphology, probes, rendered, runlog, styles, transfer
from infoae_jax.batched import make_batched
from infoae_jax.batched import method as model_method
from infoae_jax.errors import UserError
from infoae_jax.grid import to_pixels
from infoae_jax.judges import Judges, load_judges
from infoae_jax.stepper import AXIS

_FORMAT = 1
_SEED = 0  # of pairs, subsets and probes

Pictures = UInt8[np.ndarray, "n h w c"]
Latents = Float[np.ndarray, "n z"]
Labels = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How much is measured. Figures of different protocols are not to be compared."""

    name: str
    train_codes: int  # most codes of training images
    test_images: int
    swaps: int  # most swaps that are judged
    probe_epochs: int


FULL = Protocol("full", train_codes=60_000, test_images=30_000, swaps=250_000, probe_epochs=30)
QUICK = Protocol("quick", train_codes=10_000, test_images=1_500, swaps=15_000, probe_epochs=12)
PROTOCOLS = {protocol.name: protocol for protocol in (FULL, QUICK)}


class System(NamedTuple):
    """What is measured: functions on arrays of any length. `encode` receives pictures and nothing else.

    classify: the logits of each picture's class, if the system reads it.
    """

    encode: Callable[[Pictures], Latents]
    decode: Callable[[Latents, Labels], Float[np.ndarray, "n h w c"]]
    classify: Callable[[Pictures], Float[np.ndarray, "n k"]] | None = None

    def draw(self, z: Latents, labels: Labels) -> Pictures:
        return to_pixels(self.decode(z, labels))


class _Subject(NamedTuple):
    """What all figures share, computed once."""

    system: System
    protocol: Protocol
    judges: Judges
    test: data.Dataset
    train: data.Dataset
    z: Latents  # of the test images
    z_train: Latents
    reconstruction: Float[np.ndarray, "n h w c"]
    others: Labels  # for each test image, another class
    swaps: Pictures  # each test image's style with that class

    @property
    def num_classes(self) -> int:
        return len(self.test.class_names)


class LeftOut(Exception):  # noqa: N818 (it is no error)
    """Raised by a figure that makes no sense for the data at hand, with the reason."""


# --- The figures ------------------------------------------------------------------------------------------------------


def leakage(s: _Subject) -> dict[str, Any]:
    """See `probes`. Fooled by a latent that holds nothing: `reconstruction` and its `z_used_gap` would show it."""
    train, test = probes.Codes(s.z_train, s.train.labels), probes.Codes(s.z, s.test.labels)
    return probes.leakage(train, test, s.num_classes, s.protocol.probe_epochs, _SEED)


def reconstruction(s: _Subject) -> dict[str, float]:
    """Each test image redrawn with its own class.

    mse per pixel in [0, 1], of the decoder's output as it is; psnr (mean over images) and ssim of the picture.
    z_used_gap: how much larger the mse becomes with the latent of another image of the class; near 0 where the decoder
    does not use the latent. Fooled by a large latent that keeps the class: `leakage`.
    """
    target = s.test.images
    by_image = _squared_error(s.reconstruction, target)
    partner = _others_of_class(s.test.labels)
    has_partner = partner >= 0
    foreign = s.system.decode(s.z[partner[has_partner]], s.test.labels[has_partner])
    gap = _squared_error(foreign, target[has_partner]).mean() - by_image[has_partner].mean()
    return {
        "mse": float(by_image.mean()),
        **_picture_quality(to_pixels(s.reconstruction), target),
        "z_used_gap": float(gap),
    }


def content(s: _Subject) -> dict[str, float]:
    """accuracy: share of the test images whose class the system's own content classifier reads (Eq. 2)."""
    if s.system.classify is None:
        raise LeftOut("this system does not read the class of a picture")
    return {"accuracy": float((s.system.classify(s.test.images).argmax(axis=1) == s.test.labels).mean())}


def transfer_accuracy(s: _Subject) -> dict[str, Any]:
    """Test images with every other class (a random part where these are too many), read by the judges.

    accuracy: share read as the class asked for, mean over judges; by_judge; by_class (asked for); confusion[asked,
    read], in shares; judge_accuracy: on real test images. Fooled by ignoring the style: `style`. Copying the source
    gives 0.
    """
    rng = np.random.default_rng(_SEED)
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
        read = s.judges.read(s.system.draw(s.z[rows], labels))
        for judge, verdict in enumerate(read):
            np.add.at(table[judge], (labels, verdict), 1)
    totals = table.sum(2, keepdims=True)
    shares = (table / np.where(totals > 0, totals, 1)).mean(0)
    return {
        "accuracy": float(np.trace(table, axis1=1, axis2=2).mean() / len(images)),
        "by_judge": [float(np.trace(t) / len(images)) for t in table],
        "by_class": [float(share) for share in np.diag(shares)],
        "confusion": shares.round(5).tolist(),
        "swaps": len(images),
        "judge_accuracy": list(s.judges.accuracies),
        "judge_bar": s.judges.bar,
    }


def style(s: _Subject) -> dict[str, Any]:
    """Pearson's r between attributes of the style image and of its swap with another class, without class means.

    From each attribute (see `morphology`) the mean of its class is subtracted first (of a swap: of the class asked
    for), since style attributes alone predict a digit in half of the cases. `ceiling`: the same r for
    reconstructions. Fooled by copying the source: `transfer_accuracy`.
    """
    if s.test.images.shape[-1] == 3:
        measure = morphology.colours
    elif morphology.has_strokes(s.test.images):
        measure = morphology.strokes
    else:
        raise LeftOut("stroke shape is measured on bright strokes with a dark border, which these grey images have not")
    real, swapped = measure(s.test.images), measure(s.swaps)
    redrawn = measure(to_pixels(s.reconstruction))
    result: dict[str, Any] = {"r": {}, "ceiling": {}, "swaps": len(s.swaps)}
    for name in real:
        source = _residual(real[name], s.test.labels)
        result["r"][name] = _correlation(source, _residual(swapped[name], s.others))
        result["ceiling"][name] = _correlation(source, _residual(redrawn[name], s.test.labels))
    if measure is morphology.strokes:
        result["without_stroke"] = int(np.isnan(swapped["area"]).sum())
    else:  # the distance in CIELAB that a person sees
        for ground in ("background", "foreground"):
            names = [f"{ground}_{c}" for c in "lab"]
            squares = sum((swapped[name] - real[name]) ** 2 for name in names)
            result[f"{ground}_delta_e"] = float(np.sqrt(squares).mean())
    return result


def counterfactual(s: _Subject) -> dict[str, float]:
    """Embedded data only: swaps against the true pictures of the same style with the other digit.

    The noise in the true picture cannot be foreseen, so a perfect system has an error as well: compare with
    `reconstruction`.
    """
    if not s.test.factors:
        raise LeftOut("the true picture of a style with another class is known for the embedded data set only")
    truth = rendered.render(rendered.Styles(**s.test.factors), s.others)
    return {"mse": float(_squared_error(s.swaps, truth).mean()), **_picture_quality(s.swaps, truth)}


def composition(s: _Subject) -> dict[str, float]:
    """Null swaps: each picture encoded and drawn with its own class, once and ten times over.

    l1_1, l1_10: mean absolute difference to the original, on 0..255. accuracy_10: read as its class by the judges at
    the end. A constant picture does not change either, hence the comparison with the original.
    """
    pictures, result = s.test.images, {}
    for i in range(1, 11):
        pictures = s.system.draw(s.system.encode(pictures), s.test.labels)
        if i in (1, 10):
            difference = np.abs(pictures.astype(np.int16) - s.test.images.astype(np.int16))
            result[f"l1_{i}"] = float(difference.mean(dtype=np.float64))
    result["accuracy_10"] = float((s.judges.read(pictures) == s.test.labels).mean())
    return result


def reversibility(s: _Subject) -> dict[str, float]:
    """A swap swapped back: mse against the original, and r2 of the latent encoded from the swap.

    `blurred_*`: the same if the swap is blurred a little (standard deviation half a pixel) first, which destroys what
    could be hidden in faint pixels.
    """
    from scipy.ndimage import gaussian_filter

    result = {}
    blurred = to_pixels(gaussian_filter(s.swaps.astype(np.float32) / 255, sigma=0.5, axes=(1, 2)))
    for prefix, pictures in (("", s.swaps), ("blurred_", blurred)):
        z = s.system.encode(pictures)
        back = s.system.decode(z, s.test.labels)
        result[f"{prefix}mse"] = float(_squared_error(back, s.test.images).mean())
        spread = ((s.z - s.z.mean(0)) ** 2).sum()
        result[f"{prefix}r2"] = float(1 - ((z - s.z) ** 2).sum() / spread) if spread > 0 else float("nan")
    return result


def realism(s: _Subject) -> dict[str, float]:
    """Swaps against real test images, in the features of the first judge.

    frechet: distance of two Gaussians (Heusel et al. 2017; the features are not Inception's); floor: of real training
    images to the test images, as many; reconstruction: of reconstructions. precision, recall: k = 3 (Kynkäänniemi et
    al. 2019). All depend on the number of images.
    """
    most = 10_000
    chosen = np.random.default_rng(_SEED).permutation(min(len(s.test), len(s.train)))[:most]
    if len(chosen) < 200:
        raise LeftOut(f"a distance of distributions needs 200 test images or more, and there are {len(chosen)}")
    real, swaps = s.judges.features(s.test.images[chosen]), s.judges.features(s.swaps[chosen])
    floor = s.judges.features(s.train.images[chosen])
    redrawn = s.judges.features(to_pixels(s.reconstruction[chosen]))
    return {
        "frechet": _frechet(swaps, real),
        "frechet_floor": _frechet(floor, real),
        "frechet_reconstruction": _frechet(redrawn, real),
        "precision": _coverage(real, swaps),
        "recall": _coverage(swaps, real),
        "images": len(chosen),
    }


FIGURES: dict[str, Callable[[_Subject], dict[str, Any]]] = {
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
_JUDGED = ("transfer", "realism")  # and composition's accuracy: worth as much as the judges


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(
    system: System, splits: data.Splits, judges: Judges, protocol: Protocol = FULL, figures: tuple[str, ...] = ()
) -> dict[str, Any]:
    """All figures (or those named) of any system, not only of a run.

    Returns:
      figures: by name, see the functions of this module. left_out: name to reason. untrusted: names of figures whose
      judges do not reach their bar. seconds: by name, what it took.
    """
    rng = np.random.default_rng(_SEED)
    test, train = _at_most(splits.test, protocol.test_images, rng), _at_most(splits.train, protocol.train_codes, rng)
    z = system.encode(test.images)
    others = test.labels + rng.integers(1, len(test.class_names), len(test))
    others = (others % len(test.class_names)).astype(np.int32)
    subject = _Subject(
        system=system,
        protocol=protocol,
        judges=judges,
        test=test,
        train=train,
        z=z,
        z_train=system.encode(train.images),
        reconstruction=system.decode(z, test.labels),
        others=others,
        swaps=system.draw(z, others),
    )
    result: dict[str, Any] = {"figures": {}, "left_out": {}, "untrusted": [], "seconds": {}}
    for name in figures or tuple(FIGURES):
        begin = time.perf_counter()
        try:
            result["figures"][name] = FIGURES[name](subject)
        except LeftOut as reason:
            result["left_out"][name] = str(reason)
        result["seconds"][name] = time.perf_counter() - begin
    if not judges.trusted:
        result["untrusted"] = [name for name in _JUDGED if name in result["figures"]]
    return result


def evaluate(
    run: str | Path,
    protocol: Protocol = FULL,
    step: int | None = None,
    data_dir: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures a run, and writes `evaluation.json` (or `evaluation_quick.json`) into its folder.

    Args:
      step: which checkpoint; the newest by default. data_dir: where the data set is now, if it was moved.

    Raises:
      UserError: if the folder is no run with a checkpoint, or the data set is not the one it was trained on.
    """
    run = Path(run)
    begin = time.perf_counter()
    info = runlog.read_info(run)
    at, model, variables = transfer.restore(run, step)
    try:
        splits = styles.run_data(info, data_dir, prepare=True)
    except UserError as error:
        raise UserError(f"{str(run)!r} cannot be evaluated. {error}") from error
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    pixels = model.image_shape[0] * model.image_shape[1]

    def method(name: str) -> Callable[..., np.ndarray]:
        batched = make_batched(model_method(model, name), mesh, pixels)
        return lambda *rows: batched(variables, *rows)

    system = System(method("encode"), method("decode"), method("classify"))
    judges = load_judges(info.config.data, splits, mesh, say)
    prepared = time.perf_counter()
    measured = measure(system, splits, judges, protocol)
    seconds = measured.pop("seconds")
    devices = jax.local_devices()
    epochs = runlog.read(run, "epoch")
    record = {
        "format": _FORMAT,
        "protocol": dataclasses.asdict(protocol),
        "step": at,
        "data": {"name": info.config.data.name, "train": len(splits.train), "test": len(splits.test)},
        "bottleneck": info.config.model.bottleneck,
        **measured,
        "environment": runlog.environment(),
        "cost": {
            "device": f"{len(devices)} x {devices[0].device_kind}",
            "preparation_s": prepared - begin,
            "evaluation_s": time.perf_counter() - prepared,
            "by_figure_s": seconds,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
            "training_images_per_s": float(np.median([line["images_per_s"] for line in epochs])) if epochs else None,
            **_speed(system, splits.test),
        },
    }
    runlog.write_atomically(run / file_name(protocol), (json.dumps(_finite(record), indent=1) + "\n").encode())
    return record


def file_name(protocol: Protocol) -> str:
    return "evaluation.json" if protocol.name == "full" else f"evaluation_{protocol.name}.json"


def read(run: str | Path, protocol: Protocol | None = None) -> dict[str, Any] | None:
    """The run's evaluation by `protocol`, or None. By default the full one, or else the quick one."""
    for wanted in (protocol,) if protocol else PROTOCOLS.values():
        path = Path(run) / file_name(wanted)
        if path.exists():
            try:
                return json.loads(path.read_text())
            except ValueError as error:
                raise UserError(f"{str(path)!r} is damaged ({error}). Evaluate the run again.") from error
    return None


def _finite(value: Any) -> Any:
    """JSON has no word for NaN (a correlation with a constant): null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _at_most(split: data.Dataset, count: int, rng: np.random.Generator) -> data.Dataset:
    if len(split) <= count:
        return split
    rows = np.sort(rng.choice(len(split), count, replace=False))
    factors = {name: values[rows] for name, values in split.factors.items()}
    return data.Dataset(split.images[rows], split.labels[rows], split.class_names, factors)


def _speed(system: System, test: data.Dataset) -> dict[str, float]:
    """Images for each second through `encode` and `decode`, compiled already; the median of five."""
    images, labels = test.images[:2000], test.labels[:2000]
    z = system.encode(images)
    result = {}
    for name, call in (("encode", lambda: system.encode(images)), ("decode", lambda: system.decode(z, labels))):
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        result[f"{name}_images_per_s"] = len(images) / float(np.median(times))
    return result


# --- Formulas ---------------------------------------------------------------------------------------------------------


def _as_floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def _squared_error(images: np.ndarray, target: np.ndarray) -> Float[np.ndarray, " n"]:
    """Mean over the pixels of each image, in [0, 1] units."""
    return ((_as_floats(images) - _as_floats(target)) ** 2).mean((1, 2, 3), dtype=np.float64)


def _picture_quality(pictures: Pictures, target: Pictures) -> dict[str, float]:
    """psnr (dB, mean over images; one that is equal in all pixels counts as one step in one pixel) and ssim."""
    from skimage.metrics import structural_similarity

    least = 1 / 255**2 / np.prod(target.shape[1:])
    psnr = -10 * np.log10(np.maximum(_squared_error(pictures, target), least))
    # Wang et al. 2004: Gaussian windows with standard deviation 1.5, colours apart.
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    rows = np.random.default_rng(_SEED).permutation(len(target))[:2000]  # one image at a time takes a millisecond
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
