"""Watching a training: losses, test figures and pictures, to the run folder and the terminal; stops what diverged."""

import collections
import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8
from tqdm import tqdm

from infoae_jax.devices import hosts
from infoae_jax.devices.batching import batch_size, make_batched, model_method
from infoae_jax.devices.mesh import AXIS
from infoae_jax.errors import DivergedError
from infoae_jax.files import write_atomically
from infoae_jax.images.grid import MAX_COLUMNS, encode_png, one_of_each, swap_grid
from infoae_jax.images.pixels import to_float
from infoae_jax.models.autoencoder import InfoAutoencoder
from infoae_jax.training.run import Run, own
from infoae_jax.training.state import TrainState, apply_method

_PLAIN_SECONDS = 30  # without a terminal, a line at most this often within an epoch
# Cross-entropy of a coin-flip among 1e6 classes is 14 nats. An adversary loss beyond this is an encoder that runs away.
_DIVERGED_LOSS = 1e3


def check_sound(values: dict[str, float], at: int, steps_per_epoch: int) -> None:
    """Raises `DivergedError` if a metric is not finite or the adversary's loss has run away."""
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if not wrong and values["adversary"] < _DIVERGED_LOSS:
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    epoch = (at - 1) / steps_per_epoch + 1
    if not wrong:
        cause = f"the adversary's loss is {values['adversary']:.4g}: the encoder wins by making its latent ever larger"
    else:
        cause = f"{' and '.join(wrong)} became infinite or not a number"
    raise DivergedError(
        f"Training diverged in epoch {int(epoch)} (step {at}): {cause}.\n  {figures}\n"
        f"Start again in another --workdir with a smaller --config.train.lambda_adv, or, where they are not set so, "
        f"with --config.model.latent=ball or --config.train.lambda_schedule=linear. A smaller "
        f"--config.train.learning_rate helps when it is not the adversary."
    )


@functools.lru_cache(16)
def _evaluation_sums(model: InfoAutoencoder, mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
    whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.jit(
        functools.partial(evaluation_sums, model),
        in_shardings=(whole, parts, parts, parts),
        out_shardings=whole,
    )


class Observer:
    """Test figures, which a call returns, and a picture of swaps, at chosen epochs."""

    def __init__(self, run: Run):
        self._run = run
        test = run.splits.test
        pixels = test.images.shape[1] * test.images.shape[2]
        self._size = batch_size(len(test), pixels, run.near)
        self._sums = _evaluation_sums(run.model, run.near)
        self._rows = one_of_each(test.labels)
        self._classes = np.arange(min(run.model.num_classes, MAX_COLUMNS), dtype=np.int32)
        self._swap = make_batched(model_method(run.model, "transfer"), run.near, pixels)

    def __call__(self, state: TrainState, epoch: int, at: int) -> dict[str, float]:
        # On every host, so that none waits long for another: collectives have a time limit.
        params = hosts.local(state.params)
        figures = self.figures(params)
        self._run.log("test", at, epoch=epoch, **figures)
        self._run.say(f"{'':>9}  test: mse {figures['reconstruction']:.5f}, content {figures['content_accuracy']:.2%}")
        if not all(map(math.isfinite, figures.values())):
            return figures  # of a ruined model there is no picture
        sources = self._run.splits.test.images[self._rows]
        rows, columns = len(sources), len(self._classes)
        styles = np.repeat(sources, columns, axis=0)
        swaps = self._swap({"params": params}, styles, np.tile(self._classes, rows))
        swaps = swaps.reshape(rows, columns, *swaps.shape[1:])
        if not self._run.writes:
            return figures
        folder = self._run.folder / "samples"
        folder.mkdir(exist_ok=True)
        picture = swap_grid(sources, swaps)
        write_atomically(folder / f"epoch_{epoch:04d}.png", encode_png(picture))
        return figures

    def figures(self, params: Any) -> dict[str, float]:
        """Means over the whole test split, each image counted once."""
        test = self._run.splits.test
        parts = NamedSharding(self._run.near, PartitionSpec(AXIS))
        total: collections.Counter[str] = collections.Counter()
        for start in range(0, len(test), self._size):
            images, labels = test.images[start : start + self._size], test.labels[start : start + self._size]
            mask = np.arange(self._size) < len(labels)
            missing = self._size - len(labels)
            batch = (
                np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]),
                np.pad(labels, (0, missing)),
                mask.astype(np.float32),
            )
            sums = self._sums(params, *jax.device_put(batch, parts))
            total.update({name: float(value) for name, value in jax.device_get(sums).items()})
        count = total.pop("count")
        return {name: value / count for name, value in total.items()}


class Reporter:
    """Losses to metrics.jsonl and to the terminal: a bar where there is one, plain lines otherwise."""

    def __init__(self, run: Run, steps_per_epoch: int, total: int):
        self._run, self._steps_per_epoch, self._total = run, steps_per_epoch, total
        self._bar: Any = None
        self._shown = time.monotonic()

    @contextlib.contextmanager
    def bar(self, start: int) -> Iterator[None]:
        size = self._run.config.train.batch_size
        images = {"total": self._total * size, "initial": start * size, "unit": " images", "unit_scale": True}
        shown = self._run.bar and sys.stderr.isatty()
        with tqdm(**images, disable=not shown, dynamic_ncols=True, leave=False) as self._bar:
            yield

    def advance(self, steps: int) -> None:
        self._bar.update(steps * self._run.config.train.batch_size)

    def sound(self, at: int, metrics: Any) -> dict[str, float]:
        """The metrics on the host; unsound ones are logged and raised."""
        values = {name: float(value) for name, value in jax.device_get(own(metrics)).items()}
        try:
            check_sound(values, at, self._steps_per_epoch)
        except DivergedError:
            self._run.log("diverged", at, **values)
            raise
        return values

    def step(self, at: int, metrics: Any) -> None:
        values = self.sound(at, metrics)
        self._run.log("step", at, **values)
        losses = f"mse {values['reconstruction']:.5f} adversary {values['adversary']:.3f}"
        self._bar.set_postfix_str(losses, refresh=False)
        if self._bar.disable and time.monotonic() - self._shown > _PLAIN_SECONDS:
            self._shown = time.monotonic()
            self._run.say(f"step {at}/{self._total}  {losses}")

    def epoch(self, epoch: int, at: int, sums: dict[str, Any], images_per_s: float) -> None:
        means = {name: float(value) / float(sums["count"]) for name, value in sums.items() if name != "count"}
        self._run.log("epoch", at, epoch=epoch, **means, images_per_s=images_per_s)
        left = (self._total - at) * self._run.config.train.batch_size / images_per_s
        epochs, width = self._run.config.train.epochs, len(str(self._run.config.train.epochs))
        right, content = means["adversary_accuracy"], means["content_accuracy"]
        self._run.say(
            f"{epoch:>{width}}/{epochs}  mse {means['reconstruction']:.5f}  adversary {means['adversary']:.3f} "
            f"({right:.1%} right)  content {content:.1%}  lambda {means['lambda']:.2g}  {images_per_s:,.0f} images/s  "
            f"{tqdm.format_interval(left)} left of this phase"
        )
        self._shown = time.monotonic()


def evaluation_sums(
    model: InfoAutoencoder,
    params: Any,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    mask: Float[Array, " b"],
) -> dict[str, Float[Array, ""]]:
    """Sums over the images with mask 1, to be divided once at the end: each example counts once at any batch size."""
    pixels = to_float(images)
    z = apply_method(model, params, "encode", images)
    squared = jnp.mean((apply_method(model, params, "decode", z, labels) - pixels) ** 2, axis=(1, 2, 3))
    content = apply_method(model, params, "classify", images).argmax(axis=1) == labels
    adversary = (
        apply_method(model, params, "adversary_logits", apply_method(model, params, "encode_raw", images), 0.0).argmax(
            axis=1
        )
        == labels
    )
    return {
        "reconstruction": jnp.sum(squared * mask),
        "content_accuracy": jnp.sum(content * mask),
        "adversary_accuracy": jnp.sum(adversary * mask),
        "count": jnp.sum(mask),
    }
