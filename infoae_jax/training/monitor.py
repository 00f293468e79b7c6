"""Watching a training: losses, test metrics and sample images for the run folder and the terminal; divergence."""

import functools
import math
import sys
import time

import numpy as np
from tqdm import tqdm

from infoae_jax.devices import hosts
from infoae_jax.errors import DivergedError
from infoae_jax.files import write_atomically
from infoae_jax.images.grid import MAX_COLUMNS, encode_swaps, one_of_each
from infoae_jax.images.pixels import to_float
from infoae_jax.training.phase import Phase, Span
from infoae_jax.training.run import Run
from infoae_jax.training.state import PhaseName, TrainState
from infoae_jax.types import Metrics

MIN_SECONDS_BETWEEN_LINES = 30  # within an epoch, without a terminal
MAX_EPOCH_LINES = 20  # of a phase; about
MAX_PIXELS_AT_ONCE = 4096 * 32 * 32  # which bounds the memory
# Cross-entropy of a coin-flip among 1e6 classes is 14 nats. Beyond this loss the encoder runs away from its adversary.
MAX_ADVERSARY_LOSS = 1e3
ADVICE: dict[PhaseName, str] = {
    "autoencoder": "with a smaller --config.train.lambda_adv or, where not yet set, --config.model.latent=sphere or "
    "--config.train.lambda_schedule=linear. Where it is not the adversary, lower --config.train.learning_rate.",
    "alignment": "with a smaller --config.alignment.lambda_adv or --config.alignment.learning_rate, or without "
    "alignment: --config.model.couplings=0.",
    "refinement": "with a smaller --config.refine.learning_rate or smaller weights in that section, or without "
    "refinement: --config.refine.epochs=0.",
}


def check_sound(run: Run, phase: PhaseName, epoch: int, step: int, metrics: Metrics) -> dict[str, float]:
    """A step's metrics as numbers; `DivergedError` if one is not finite or the adversary's loss has run away."""
    values = {name: float(value) for name, value in metrics.items()}
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        cause = f"{' and '.join(wrong)} became infinite or not a number"
    elif phase == "autoencoder" and values.get("adversary", 0) >= MAX_ADVERSARY_LOSS:
        cause = f"the adversary's loss is {values['adversary']:.4g}: the encoder wins by making its latent ever larger"
    else:
        return values
    run.log("diverged", step, **values)
    raise DivergedError(
        f"Training diverged in epoch {epoch} (step {step}) of the {phase}: {cause}.\n  "
        f"{', '.join(f'{name} {value:.4g}' for name, value in values.items())}\n"
        f"Start again in another --workdir {ADVICE[phase]}"
    )


def observe(run: Run, state: TrainState, epoch: int) -> dict[str, float]:
    """Logs test metrics, writes the swaps of samples/epoch_<epoch>.png, and returns the metrics.

    The epoch is counted over all phases. The metrics are means over the whole test split, each image counted once.
    """
    # On every host, so that none waits long for another: collectives have a time limit.
    test, apply = run.splits.test, functools.partial(run.apply, hosts.local(state.variables))
    z = apply("encode", test.images)
    size = max(MAX_PIXELS_AT_ONCE // test.images[0].size, 1)
    portions = [slice(start, start + size) for start in range(0, len(z), size)]
    errors = [
        ((apply("decode", z[p], test.labels[p]) - to_float(test.images[p])) ** 2).mean((1, 2, 3)) for p in portions
    ]
    is_right = apply("classify", test.images).argmax(axis=1) == test.labels
    metrics = {"reconstruction": float(np.concatenate(errors).mean()), "content_accuracy": float(is_right.mean())}
    run.log("test", int(state.step), epoch=epoch, **metrics)
    run.print(f"  test: reconstruction {metrics['reconstruction']:.5f}, content {metrics['content_accuracy']:.1%}")
    if not all(map(math.isfinite, metrics.values())):
        return metrics  # a ruined model has no swaps to show
    rows = one_of_each(test.labels)
    targets = np.arange(min(run.model.num_classes, MAX_COLUMNS), dtype=np.int32)
    swaps = apply("decode", np.repeat(z[rows], len(targets), axis=0), np.tile(targets, len(rows)))
    if hosts.is_first():
        folder = run.folder / "samples"
        folder.mkdir(exist_ok=True)
        swaps = swaps.reshape(len(rows), len(targets), *swaps.shape[1:])
        sheet = encode_swaps(test.images[rows], swaps, test.class_names[: len(targets)])
        write_atomically(folder / f"epoch_{epoch:04d}.png", sheet)
    return metrics


class Reporter:
    """Tells what the steps of a phase return, in metrics.jsonl and in the terminal."""

    def __init__(self, run: Run, phase: Phase, span: Span, step: int):
        self._run, self._phase, self._span, self._printed = run, phase, span, time.monotonic()
        self.restart(step)

    def restart(self, step: int) -> None:
        """Images per second count from here on, after `step` steps."""
        self._begin = time.perf_counter(), step

    def check(self, step: int, metrics: Metrics) -> dict[str, float]:
        """The metrics as numbers, if they are sound."""
        return check_sound(self._run, self._phase.name, self._span.epoch(step), step, metrics)

    def __call__(self, step: int, metrics: Metrics, sums: Metrics) -> None:
        """Tells of the step that was the `step`-th, with the metrics of it and their sums since the epoch began.

        Raises:
          DivergedError: if the metrics are unsound.
        """
        run, phase, span = self._run, self._phase, self._span
        values = self.check(step, metrics)
        if span.is_event(step, run.config.log.every_steps):
            run.log(f"{phase.name}_step", step, **values)
        if span.epoch_ends(step):
            self._tell_epoch(step, {name: float(total) / span.steps_per_epoch for name, total in sums.items()})
        elif not sys.stderr.isatty() and time.monotonic() - self._printed > MIN_SECONDS_BETWEEN_LINES:
            self._print(f"step {step}/{span.last}  {self._shown(values)}")

    def _tell_epoch(self, step: int, means: dict[str, float]) -> None:
        span, (begin, first), now = self._span, self._begin, time.perf_counter()
        epoch, epochs, rate = span.epoch(step), span.epochs, max(step - first, 1) * span.batch_size / (now - begin)
        self._run.log(self._phase.name, step, epoch=epoch, **means, images_per_s=rate)
        self.restart(step)
        if epoch % max(epochs // MAX_EPOCH_LINES, 1) == 0 or epoch == epochs:
            left = tqdm.format_interval((span.last - step) * span.batch_size / rate)
            where = f"{self._phase.name} {epoch:>{len(str(epochs))}}/{epochs}"
            self._print(f"{where}  {self._shown(means)}  {rate:,.0f} images/s  {left} left of this phase")

    def _shown(self, values: dict[str, float]) -> str:
        forms = {name: ".1%" if name.endswith("accuracy") else ".4g" for name in self._phase.shown}
        return "  ".join(f"{name.replace('_', ' ')} {values[name]:{form}}" for name, form in forms.items())

    def _print(self, text: str) -> None:
        self._run.print(text)
        self._printed = time.monotonic()


def progress_bar(title: str, span: Span, step: int, is_shown: bool) -> tqdm:
    """The progress of a phase, if there is a terminal; in images."""
    images = {"desc": title, "total": span.last - span.first, "initial": step - span.first, "unit": " images"}
    hidden = not (is_shown and hosts.is_first() and sys.stderr.isatty())
    return tqdm(**images, unit_scale=span.batch_size, dynamic_ncols=True, leave=False, disable=hidden)
