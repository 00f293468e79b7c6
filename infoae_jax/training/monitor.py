"""Watching a training: losses, test metrics and sample images for the run folder and the terminal; divergence."""

import collections
import contextlib
import functools
import math
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
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
from infoae_jax.types import Metrics, Params, Tree

MIN_SECONDS_BETWEEN_LINES = 30  # within an epoch, without a terminal
# Cross-entropy of a coin-flip among 1e6 classes is 14 nats. Beyond this loss the encoder runs away from its adversary.
MAX_ADVERSARY_LOSS = 1e3
ADVICE: dict[PhaseKind, str] = {
    "train": "with a smaller --config.train.lambda_adv or, where not yet set, --config.model.latent=ball or "
    "--config.train.lambda_schedule=linear. Where it is not the adversary, lower --config.train.learning_rate.",
    "align": "with a smaller --config.alignment.lambda_adv or --config.alignment.learning_rate, or without alignment: "
    "--config.model.couplings=0.",
    "refine": "with a smaller --config.refine.learning_rate or smaller weights in that section, or without refinement: "
    "--config.refine.epochs=0.",
}


def check_sound(run: Run, kind: PhaseKind, epoch: int, step: int, metrics: Tree) -> dict[str, float]:
    """A step's metrics, on the host; `DivergedError` if one is not finite or the adversary's loss has run away."""
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


@functools.partial(jax.jit, static_argnums=0)
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


def observe(run: Run, state: TrainState, epoch: int, step: int) -> dict[str, float]:
    """Logs the test metrics, writes the swaps of samples/epoch_<epoch>.png, and returns the metrics."""
    # On every host, so that none waits long for another: collectives have a time limit.
    params, test = hosts.local(state.params), run.splits.test
    metrics = measure_test_split(run, params)
    run.log("test", step, epoch=epoch, **metrics)
    mse, content = metrics["reconstruction"], metrics["content_accuracy"]
    run.print(f"{'':>9}  test: mse {mse:.5f}, content {content:.2%}")
    if not all(map(math.isfinite, metrics.values())):
        return metrics  # a ruined model has no swaps to show
    sources = test.images[one_of_each(test.labels)]
    rows, columns = len(sources), min(run.model.num_classes, MAX_COLUMNS)
    targets = np.tile(np.arange(columns, dtype=np.int32), rows)
    transfer = make_batched(model_method(run.model, "transfer"), run.local_mesh, sources.shape[1] * sources.shape[2])
    swaps = transfer({"params": params}, np.repeat(sources, columns, axis=0), targets)
    if hosts.is_first():
        folder = run.folder / "samples"
        folder.mkdir(exist_ok=True)
        sheet = swap_grid(sources, swaps.reshape(rows, columns, *swaps.shape[1:]))
        write_atomically(folder / f"epoch_{epoch:04d}.png", encode_png(sheet))
    return metrics


def measure_test_split(run: Run, params: Params) -> dict[str, float]:
    """Means over the whole test split, each image counted once."""
    test, split = run.splits.test, NamedSharding(run.local_mesh, PartitionSpec(AXIS))
    size = batch_size(len(test), test.images.shape[1] * test.images.shape[2], run.local_mesh)
    total: collections.Counter[str] = collections.Counter()
    for start in range(0, len(test), size):
        images, labels = test.images[start : start + size], test.labels[start : start + size]
        missing, mask = size - len(labels), (np.arange(size) < len(labels)).astype(np.float32)
        batch = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)]), np.pad(labels, (0, missing)), mask
        sums = jax.device_get(evaluation_sums(run.model, params, *jax.device_put(batch, split)))
        total.update({name: float(value) for name, value in sums.items()})
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


class Reporter:
    """The autoencoder's losses, for metrics.jsonl and the terminal: a bar where there is one, plain lines elsewhere."""

    def __init__(self, run: Run, steps_per_epoch: int):
        self._run, self._steps_per_epoch, self._total_steps = run, steps_per_epoch, run.steps[0]
        self._batch_size = run.config.train.batch_size
        self._bar = tqdm(disable=True)
        self._noted: tuple[int, Tree] | None = None
        self._printed = time.monotonic()

    @contextlib.contextmanager
    def bar(self, step: int) -> Iterator[None]:
        """Shows the progress from `step` on, if there is a terminal."""
        images = {"total": self._total_steps * self._batch_size, "initial": step * self._batch_size, "unit": " images"}
        hidden = not (self._run.has_bar and hosts.is_first() and sys.stderr.isatty())
        with tqdm(**images, unit_scale=True, dynamic_ncols=True, leave=False, disable=hidden) as self._bar:
            yield

    def step(self, step: int, taken: int, metrics: Tree) -> None:
        """Moves the bar; where there is a line to log, notes it and logs the one before, so that no device waits."""
        self._bar.update(taken * self._batch_size)
        if step % self._run.config.log.every_steps == 0:
            self._log_noted()
            self._noted = step, metrics

    def check(self, step: int, metrics: Tree) -> dict[str, float]:
        """Logs what is noted; the metrics of a step, on the host, or `DivergedError`."""
        self._log_noted()
        return check_sound(self._run, "train", (step - 1) // self._steps_per_epoch + 1, step, metrics)

    def _log_noted(self) -> None:
        if self._noted is None:
            return
        (step, metrics), self._noted = self._noted, None
        values = self.check(step, metrics)  # nothing is noted now
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
