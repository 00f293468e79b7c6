"""`speed.py loop`, `start` and `scaling`: all of `fit` against its bare steps."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.timing import example, make_stepper
from configs import mnist, rendered
from infoae_jax.config import Config, parse
from infoae_jax.devices.setup import set_up
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.training.fit import fit
from infoae_jax.types import Json

ROOT = Path(__file__).parents[1]


def loop(args: argparse.Namespace) -> Iterator[Json]:
    """Times an epoch in `fit`, with checkpoints and logs but no test figures, against the same number of bare steps."""
    set_up(rendered.get_config().train.batch_size, onednn=True)
    values = rendered.get_config()
    values.train.epochs = args.repeats + 1
    values.model.couplings = values.refine.epochs = 0  # the autoencoder alone
    values.log.sample_epochs = ()
    config = parse(values)
    whole, alone = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            if not fit(config, folder).finished:
                raise SystemExit("stopped before the end: nothing was measured")
            epochs = read_metrics(folder, "autoencoder")[1:]  # the first one compiles
            whole += [1e3 * config.train.batch_size / line["images_per_s"] for line in epochs]
        steps = config.data.num_train // config.train.batch_size
        take = _bare_steps(config, 32, 3, config.data.num_train)
        alone += [take(steps) for _ in range(args.repeats + 1)][1:]  # as above
    fit_ms, bare_ms = statistics.median(whole), statistics.median(alone)
    yield {"fit_ms_per_step": fit_ms, "bare_ms_per_step": bare_ms, "ratio": fit_ms / bare_ms}


def _bare_steps(config: Config, side: int, channels: int, num_images: int) -> Callable[[int], float]:
    """Makes a function that takes a number of steps and nothing else, and returns their mean milliseconds."""
    model = build(config.model, (side, side, channels), 10)
    stepper, at = make_stepper(config, model, *example(side, channels, num_images)), 0

    def run(steps: int) -> float:
        nonlocal at
        begin, before = time.perf_counter(), None
        for _ in range(steps):
            taken = stepper.take(at, 1)
            jax.block_until_ready(before)  # as `fit` does: on several CPU devices XLA deadlocks on a long queue
            before, at = taken, at + 1
        jax.block_until_ready(before)
        return 1e3 * (time.perf_counter() - begin) / steps

    return run


def start(args: argparse.Namespace) -> Iterator[Json]:
    """Times the command until the first step is logged (a step late): without caches (cold), then with them (warm)."""
    for config in ("configs/mnist.py", "configs/rendered.py"):
        options = [f"--config.data.dir={args.data_dir}"] if args.data_dir and "mnist" in config else []
        if "mnist" in config and not options:
            print("MNIST is left out: it needs --data_dir", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds = [_seconds_to_first_step(config, options, Path(folder), i) for i in range(args.rounds + 1)]
        yield {"config": config, "cold_s": seconds[0], "warm_s": statistics.median(seconds[1:])}


def _seconds_to_first_step(config: str, options: list[str], folder: Path, number: int) -> float:
    run = folder / f"run{number}"
    command = [sys.executable, "launch.py", f"--config={config}", f"--workdir={run}", "--config.log.every_steps=1"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    begin = time.perf_counter()
    with subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
    ) as child:
        while not read_metrics(run, "autoencoder_step"):
            if child.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with code {child.returncode}")
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        child.kill()
    return seconds


def scaling(args: argparse.Namespace) -> Iterator[Json]:
    """Times a step with more and more images, in turn; also with small networks, where a difference shows more."""
    set_up(mnist.get_config("tiny").train.batch_size, onednn=True)  # it divides the batch of the default networks
    counts = (20_000, 60_000, 120_000)
    for networks, variant in (("default", ""), ("tiny", "tiny")):
        values = mnist.get_config(variant)
        # These terms take most of a step, whatever the number of images.
        values.train.cycle_weight = values.train.swap_weight = 0.0
        config = parse(values)
        takes = {count: _bare_steps(config, 28, 1, count) for count in counts}
        times: dict[int, list[float]] = {count: [] for count in counts}
        for i in range(args.rounds + 1):
            for count, take in takes.items():
                ms = take(counts[0] // config.train.batch_size)
                if i:  # the first one compiles
                    times[count].append(ms)
        # Means rather than medians: an epoch begins in only some of the rounds.
        means = [statistics.mean(times[count]) for count in counts]
        ratios = [mean / means[0] for mean in means]
        quartiles = [np.quantile(np.divide(times[c], times[counts[0]]), (0.25, 0.75)).tolist() for c in counts]
        yield {"networks": networks, "images": counts, "ms_per_step": means, "ratios": ratios, "quartiles": quartiles}
