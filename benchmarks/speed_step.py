"""`speed.py step`: the training step and inference against PyTorch's."""

import argparse
import contextlib
import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.timing import SHAPES, example, make_stepper, median_ms
from configs import mnist, svhn
from infoae_jax.config import parse
from infoae_jax.devices.batching import make_batched
from infoae_jax.devices.mesh import data_mesh
from infoae_jax.devices.setup import set_up
from infoae_jax.models.autoencoder import build, fresh_variables
from infoae_jax.types import Json, Tree

HERE = Path(__file__).parent
RIVAL_MODES = "eager", "channels_last", "compile", "compile+channels_last"
TASKS = {"train": (256, 64, 1024), "encode": (1000,), "decode": (1000,), "train_all": (256,)}


def step_against_rival(args: argparse.Namespace) -> Iterator[Json]:
    """Times our step and the modes of PyTorch in turn, for a second or less, each in its own process.

    The load of a machine changes within minutes, so only times of the same round are compared. The ratio against a mode
    of PyTorch is the median over the rounds; the largest of the four, that against its best mode, is reported.

    'train' compares the step that `fit` runs, which includes the content classifier and three steps of the adversary,
    with a step of the rival without these; in 'train_all' the rival does all of it.
    """
    for task, batches in TASKS.items():
        for shape, (side, channels) in SHAPES.items():
            for batch in batches:
                options = [f"--task={task}", f"--side={side}", f"--channels={channels}", f"--batch={batch}"]
                commands = {"ours": [sys.executable, str(HERE / "speed.py"), "ours", *options]}
                commands |= {m: [args.rival_python, str(args.rival), f"--mode={m}", *options] for m in RIVAL_MODES}
                times: dict[str, list[float]] = {mode: [] for mode in commands}
                with contextlib.ExitStack() as children:
                    timers = {mode: children.enter_context(_timer(command)) for mode, command in commands.items()}
                    for i in range(args.repeats + 1):
                        for mode, ask in timers.items():
                            ms = ask(max(2048 // batch, 8 if batch == 1000 else 4))
                            if i:  # everything is compiled in the first round
                                times[mode].append(ms)
                ratios = {mode: np.divide(times["ours"], times[mode]) for mode in RIVAL_MODES}
                best = max(ratios, key=lambda mode: float(np.median(ratios[mode])))
                low, ratio, high = np.quantile(ratios[best], (0.25, 0.5, 0.75)).tolist()
                yield {
                    "task": task,
                    "shape": shape,
                    "batch": batch,
                    "ratio": ratio,
                    "quartiles": [low, high],
                    "best": best,
                    "ms": {mode: [round(ms, 2) for ms in values] for mode, values in times.items()},
                }


@contextlib.contextmanager
def _timer(command: list[str]) -> Iterator[Callable[[int], float]]:
    """Starts a process that reads numbers of steps; gives a function that asks it for their median milliseconds."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        questions, answers = child.stdin, child.stdout
        assert questions is not None
        assert answers is not None

        def ask(steps: int) -> float:
            answer = ""
            with contextlib.suppress(BrokenPipeError):
                print(steps, file=questions, flush=True)
                answer = answers.readline()
            if not answer:
                raise SystemExit(f"{' '.join(command)} ended with code {child.wait()}")
            return float(answer)

        yield ask


def ours(args: argparse.Namespace) -> None:
    """Times one of our tasks, set up as `launch.py` does it, whenever `step` asks."""
    set_up(args.batch, compilation_cache=False, onednn=True)  # the rival compiles in its process too
    values = mnist.get_config() if args.side == 28 else svhn.get_config()
    values.train.batch_size, values.model.bottleneck = args.batch, 16
    # The rival has no alignment, no chroma and cycle terms and no swaps.
    values.model.couplings = 0
    values.train.chroma_weight = values.train.cycle_weight = values.train.swap_weight = 0.0
    config = parse(values)
    model = build(config.model, (args.side, args.side, args.channels), 10)
    images, labels = example(args.side, args.channels, max(4 * args.batch, 2048))
    function: Callable[[], Tree]
    if args.task.startswith("train"):
        stepper = make_stepper(config, model, images, labels)
        steps = itertools.count()

        def function():
            return stepper.take(next(steps), 1)

    else:
        apply = make_batched(functools.partial(model.apply, method=args.task), data_mesh(), args.side**2)
        variables = fresh_variables(model, 0)
        z = np.asarray(jax.random.normal(jax.random.key(0), (args.batch, 16)))
        rows = (images[: args.batch],) if args.task == "encode" else (z, labels[: args.batch])

        def function():
            return apply(variables, *rows)

    for line in sys.stdin:
        print(median_ms(function, int(line), skip=1), flush=True)
