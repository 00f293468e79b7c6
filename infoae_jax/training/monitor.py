"""Watching a training: losses, test metrics and sample images for the run folder and the terminal; divergence."""

import collections
import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator

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
from infoae_jax.training.run import PhaseKind, Run, own_slice
from infoae_jax.training.state import TrainState, apply_method
from infoae_jax.training.stepper import JIT_CACHE_SIZE
from infoae_jax.types import Metrics, Params, Tree

MIN_SECONDS_BETWEEN_LINES = 30  # within an epoch, without a terminal
# Cross-entropy of a coin-flip among 1e6 classes is 14 nats. Beyond this loss the encoder runs away from its adversary.
MAX_ADVERSARY_LOSS = 1e3
ADVICE: dict[PhaseKind, str] = {
    "train": "with a smaller --config.train.lambda_adv, or, where they are not set so, with --config.model.latent=ball "
    "or --config.train.lambda_schedule=linear. A smaller --config.train.learning_rate helps when it is not the "
    "adversary.",
    "align": "with a smaller --config.alignment.lambda_adv or --config.alignment.learning_rate, or without alignment: "
    "--config.model.couplings=0.",
    "refine": "with a smaller --config.refine.learning_rate or smaller weights in that section, or without refinement: "
    "--config.refine.epochs=0.",
}


def check_sound(run: Run, kind: PhaseKind, epoch: int, step: int, metrics: Tree) -> dict[str, float]:
    """The metrics of a step, on the host.

    Raises:
      DivergedError: if one is not finite, or the loss of the autoencoder's adversary has run away; logged before.
    """
    values = {name: float(value) for name, value in jax.device_get(own_slice(metrics)).items()}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        cause = f"{' and '.join(wrong)} became infinite or not a number"
    elif kind == "train" and values["adversary"] >= MAX_ADVERSARY_LOSS:
        cause = f"the adversary's loss is {values['adversary']:.4g}: the encoder wins by making its latent ever larger"
    else:
        return values
    run.log("diverged", step, **values)
    raise DivergedError(
        f"Training diverged in epoch {epoch} (step {step}) of phase {kind!r}: {cause}.\n  "
        f"{', '.join(f'{name} {value:.4g}' for name, value in values.items())}\n"
        f"Start again in another --workdir {ADVICE[kind]}"
    )


def evaluation_sums(
    model: InfoAutoencoder,
    params: Params,
    images: UInt8[Array, "b h w c"],
    labels: Int[Array, " b"],
    mask: Float[Array, " b"],
) -> Metrics:
    """Sums of test metrics over the images with mask 1, and their 'count'; those with mask 0 only fill the batch."""
    pixels = to_float(images)
    z = apply_method(model, params, "encode", images)
    squared = jnp.mean((apply_method(model, params, "decode", z, labels) - pixels) ** 2, axis=(1, 2, 3))
    content = apply_method(model, params, "classify", images)
    adversary = apply_method(model, params, "adversary_logits", apply_method(model, params, "encode_raw", images), 0.0)
    return {
        "reconstruction": jnp.sum(squared * mask),
        "content_accuracy": jnp.sum((content.argmax(axis=1) == labels) * mask),
        "adversary_accuracy": jnp.sum((adversary.argmax(axis=1) == labels) * mask),
        "count": jnp.sum(mask),
    }


@functools.lru_cache(JIT_CACHE_SIZE)
def _evaluation_program(model: InfoAutoencoder, mesh: Mesh) -> Callable[..., Metrics]:
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    sums = functools.partial(evaluation_sums, model)
    return jax.jit(sums, in_shardings=(whole, split, split, split), out_shardings=whole)


class Observer:
    """At chosen epochs: metrics on the test split, and a sheet of swaps."""

    def __init__(self, run: Run):
        self._run, self._test = run, run.splits.test
        pixels = self._test.images.shape[1] * self._test.images.shape[2]
        self._batch_size = batch_size(len(self._test), pixels, run.local_mesh)
        self._sums = _evaluation_program(run.model, run.local_mesh)
        self._transfer = make_batched(model_method(run.model, "transfer"), run.local_mesh, pixels)

    def __call__(self, state: TrainState, epoch: int, step: int) -> dict[str, float]:
        """Logs the test metrics, writes samples/epoch_<epoch>.png, and returns the metrics."""
        # On every host, so that none waits long for another: collectives have a time limit.
        params = hosts.local(state.params)
        metrics = self.metrics(params)
        self._run.log("test", step, epoch=epoch, **metrics)
        mse, content = metrics["reconstruction"], metrics["content_accuracy"]
        self._run.print(f"{'':>9}  test: mse {mse:.5f}, content {content:.2%}")
        if not all(map(math.isfinite, metrics.values())):
            return metrics  # a ruined model has no swaps to show
        sources = self._test.images[one_of_each(self._test.labels)]
        classes = np.arange(min(self._run.model.num_classes, MAX_COLUMNS), dtype=np.int32)
        styles, targets = np.repeat(sources, len(classes), axis=0), np.tile(classes, len(sources))
        swaps = self._transfer({"params": params}, styles, targets)
        if hosts.is_first():
            folder = self._run.folder / "samples"
            folder.mkdir(exist_ok=True)
            sheet = swap_grid(sources, swaps.reshape(len(sources), len(classes), *swaps.shape[1:]))
            write_atomically(folder / f"epoch_{epoch:04d}.png", encode_png(sheet))
        return metrics

    def metrics(self, params: Params) -> dict[str, float]:
        """Means over the whole test split, each image counted once."""
        split, size = NamedSharding(self._run.local_mesh, PartitionSpec(AXIS)), self._batch_size
        total: collections.Counter[str] = collections.Counter()
        for start in range(0, len(self._test), size):
            images, labels = self._test.images[start : start + size], self._test.labels[start : start + size]
            missing = size - len(labels)
            mask = (np.arange(size) < len(labels)).astype(np.float32)
            batch = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]), np.pad(labels, (0, missing)), mask
            sums = jax.device_get(self._sums(params, *jax.device_put(batch, split)))
            total.update({name: float(value) for name, value in sums.items()})
        count = total.pop("count")
        return {name: value / count for name, value in total.items()}


class Reporter:
    """The autoencoder's losses, for metrics.jsonl and the terminal: a bar where there is one, plain lines elsewhere."""

    def __init__(self, run: Run, steps_per_epoch: int):
        self._run, self._steps_per_epoch, self._total_steps = run, steps_per_epoch, run.steps[0]
        self._batch_size = run.config.train.batch_size
        self._bar = tqdm(disable=True)
        self._unread: tuple[int, Tree] | None = None
        self._printed = time.monotonic()

    @contextlib.contextmanager
    def bar(self, step: int) -> Iterator[None]:
        """Shows the progress from `step` on, if there is a terminal."""
        images = {"total": self._total_steps * self._batch_size, "initial": step * self._batch_size, "unit": " images"}
        hidden = not (self._run.has_bar and hosts.is_first() and sys.stderr.isatty())
        with tqdm(**images, unit_scale=True, dynamic_ncols=True, leave=False, disable=hidden) as self._bar:
            yield

    def advance(self, steps: int) -> None:
        """Moves the bar."""
        self._bar.update(steps * self._batch_size)

    def check(self, step: int, metrics: Tree) -> dict[str, float]:
        """`check_sound` of the metrics of a step."""
        return check_sound(self._run, "train", (step - 1) // self._steps_per_epoch + 1, step, metrics)

    def step(self, step: int, metrics: Tree) -> None:
        """Logs the metrics of the call before and keeps these, so that the device never waits for the host."""
        self.flush()
        self._unread = step, metrics

    def flush(self) -> None:
        """Logs what `step` still keeps.

        Raises:
          DivergedError: if it is unsound.
        """
        if self._unread is None:
            return
        (step, metrics), self._unread = self._unread, None
        values = self.check(step, metrics)
        self._run.log("step", step, **values)
        losses = f"mse {values['reconstruction']:.5f} adversary {values['adversary']:.3f}"
        self._bar.set_postfix_str(losses, refresh=False)
        if self._bar.disable and time.monotonic() - self._printed > MIN_SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            self._run.print(f"step {step}/{self._total_steps}  {losses}")

    def epoch(self, step: int, sums: dict[str, Array | np.ndarray], images_per_s: float) -> None:
        """Logs and prints the means of the epoch that ends with `step`."""
        means = {name: float(value) / float(sums["count"]) for name, value in sums.items() if name != "count"}
        epoch, epochs = step // self._steps_per_epoch, self._run.config.train.epochs
        self._run.log("epoch", step, epoch=epoch, **means, images_per_s=images_per_s)
        left = tqdm.format_interval((self._total_steps - step) * self._batch_size / images_per_s)
        self._run.print(
            f"{epoch:>{len(str(epochs))}}/{epochs}  mse {means['reconstruction']:.5f}  adversary "
            f"{means['adversary']:.3f} ({means['adversary_accuracy']:.1%} right)  content "
            f"{means['content_accuracy']:.1%}  lambda {means['lambda']:.2g}  {images_per_s:,.0f} images/s  {left} left "
            f"of this phase"
        )
        self._printed = time.monotonic()
