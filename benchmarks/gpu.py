"""Measures the training on a GPU, for when there is one for a quarter of an hour: the most telling figures first.

    python benchmarks/gpu.py --out=gpu.jsonl --budget=360 --data_dir=tfds --rival_python=torch-env/bin/python
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --tiny --out=tiny.jsonl   # a rehearsal

    first    seconds from an empty compilation cache to MNIST's first step, cold and warm, for each tuning
    steps    milliseconds of a step and memory, over shapes, batches, dtypes and steps in a call
    fit      the whole training of MNIST: seconds of each phase and of compiling
    groups   a step of one run alone, and of 1, 8 and 32 as a group
    rival    PyTorch on the same device (gpu_rival.py)

Each job has a process, an empty compilation cache and a time limit of its own: one that dies or hangs costs no more
than its limit, and leaves a line with what went wrong. Lines are appended to --out as they come; what else the
processes say is in the file of that name with the suffix .log.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.timing import SHAPES, example
from configs import mnist, svhn
from infoae_jax.config import DataConfig, Dtype, parse
from infoae_jax.data.dataset import Dataset, Splits
from infoae_jax.data.load import load_splits
from infoae_jax.devices.compiling import Tuning
from infoae_jax.devices.mesh import AXIS, is_cpu
from infoae_jax.devices.setup import set_up
from infoae_jax.errors import UserError
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import environment
from infoae_jax.training import fit, stepper
from infoae_jax.training.schedule import init_state, schedule
from infoae_jax.training.stepper import Layout, Stepper
from infoae_jax.types import Json

ROOT = Path(__file__).parents[1]
COUNTS = {"MNIST": 60_000, "SVHN": 73_257}  # training images
GRACE = 5.0  # seconds that a process has to end when it is asked to
COMPILED_AT_ONCE = 5


class Job(NamedTuple):
    """A process of a part; `seconds` at most, and not begun with fewer than `least`."""

    part: str
    seconds: float
    least: float
    tuning: Tuning = "quick"
    flags: str = ""  # of XLA


JOBS = (
    Job("first", 70, 15),
    Job("first", 50, 15, "none"),
    # Otherwise convolutions cut the CUDA graph of a step into a dozen.
    Job("first", 60, 15, flags="--xla_gpu_enable_command_buffer=+CONVOLUTION"),
    Job("steps", 110, 30),
    Job("fit", 100, 30),
    Job("groups", 60, 20),
    Job("rival", 60, 20),
    Job("first", 150, 15, "full"),  # last, as it may take minutes
)


class Case(NamedTuple):
    """What a step is timed of."""

    shape: str = "MNIST"
    batch: int = 256
    dtype: Dtype = "float32"
    steps: int = 50  # in a call; by default those of `fit`
    runs: int = 0  # in a group; 0: one alone


CASES = {
    "first": [Case()],
    "steps": [
        *(Case(), Case(steps=1), Case(batch=4096), Case(dtype="bfloat16"), Case("SVHN", 64)),
        *(Case(steps=10), Case(batch=1024), Case(batch=4096, dtype="bfloat16"), Case("SVHN", 64, steps=1)),
        *(Case("SVHN", 1024), Case("SVHN", 1024, "bfloat16"), Case(batch=64), Case(batch=1024, dtype="bfloat16")),
        *(Case("SVHN", 4096), Case("SVHN", 4096, "bfloat16"), Case(batch=4096, steps=1), Case("SVHN", 64, "bfloat16")),
    ],
    "groups": [Case(runs=runs) for runs in (0, 8, 32, 1)],
    "fit": [Case()],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(job.part for job in JOBS))
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="JSON lines to append to")
    parser.add_argument("--budget", type=float, default=360, help="seconds for everything")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--data_dir", default="", help="fit: folder where TFDS has prepared MNIST; else random images")
    parser.add_argument("--rival_python", default=sys.executable, help="rival: a Python that has PyTorch")
    parser.add_argument("--tiny", action="store_true", help="small networks and few images, to rehearse on a CPU")
    inner = parser.add_argument_group("options of the processes that the command starts")
    inner.add_argument("--child", choices=CASES)
    inner.add_argument("--tuning", choices=get_args(Tuning))
    inner.add_argument("--began", type=float, help="when the process was started")
    args = parser.parse_args()
    (compute if args.child else measure)(args)


def measure(args: argparse.Namespace) -> None:
    """Does the jobs one after the other."""
    session, tiny = Session(args.out, args.budget), ["--tiny"] * args.tiny
    named = {d.name: d.version for d in importlib.metadata.distributions() if d.name.startswith(("jax", "nvidia"))}
    session.say("machine", cores=os.cpu_count(), environment=environment(), packages=named)
    for job in [job for job in JOBS if job.part in args.parts]:
        if job.part == "rival":
            session.run(job, [args.rival_python, "-m", "benchmarks.gpu_rival", *tiny], {})
            continue
        options = [f"--child={job.part}", f"--tuning={job.tuning}", f"--data_dir={args.data_dir}", *tiny]
        with tempfile.TemporaryDirectory() as cache:
            flags = f"{os.environ.get('XLA_FLAGS', '')} {job.flags}".strip()
            variables = {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache}
            for start in ("cold", "warm") if job.part == "first" else ("cold",):
                command = [sys.executable, "-m", "benchmarks.gpu", *options, f"--began={time.time()}"]
                if not session.run(job, command, variables, tuning=job.tuning, flags=job.flags, start=start):
                    break


class Session:
    """Runs jobs until the budget is spent, and writes what comes of them."""

    def __init__(self, out: Path, budget: float):
        self._out, self._log, self._budget, self._begin = out, out.with_suffix(".log"), budget, time.monotonic()
        versions = {"jax": importlib.metadata.version("jax"), "python": platform.python_version()}
        self._common: Json = {"device": None, **versions}

    def say(self, part: str, **values: object) -> None:
        """Writes a line."""
        seconds = round(time.monotonic() - self._begin, 1)
        text = json.dumps({"part": part, "at_s": seconds, **self._common, **values})
        print(text, flush=True)
        with open(self._out, "a") as file:
            file.write(text + "\n")

    def run(self, job: Job, command: Sequence[str], variables: Mapping[str, str], **about: object) -> bool:
        """Runs a process whose standard output is JSON lines; returns whether it came to a good end in time.

        Args:
          variables: of the environment, besides the present ones.
          about: what to write into each of its lines.
        """
        begin = time.monotonic()
        left = self._budget - GRACE - (begin - self._begin)
        if left < job.least:
            self.say(job.part, **about, skipped=f"{max(left, 0):.0f} s are left, but it needs {job.least:.0f} s")
            return False
        limit, path = min(job.seconds, left), os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with open(self._log, "ab") as log:
            said, env = log.tell(), {**os.environ, "PYTHONPATH": path, **variables}
            try:  # in a session of its own, so that what it starts ends with it
                child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True)
            except OSError as error:
                self.say(job.part, **about, failed=str(error))
                return False
        with child, limited(child, limit):
            for text in child.stdout or ():
                with contextlib.suppress(ValueError, AttributeError):  # what is no JSON object is not ours
                    line = json.loads(text)
                    self._common["device"] = line.get("device")
                    self.say(job.part, **about, **line)
        is_late = time.monotonic() - begin >= limit
        if is_late or child.returncode:
            tail = self._log.read_bytes()[said:].decode(errors="replace").splitlines()[-4:]
            reason = f"ended at its limit of {limit:.0f} s" if is_late else f"exit code {child.returncode}"
            self.say(job.part, **about, failed=reason, stderr=[text[:300] for text in tail])
        return not (is_late or child.returncode)


@contextlib.contextmanager
def limited(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Waits for a process, but ends it and all that it has started when its time is over."""

    def end(number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    # Asked to end, `fit` still tells how far it came.
    timers = [threading.Timer(seconds, end, [signal.SIGTERM]), threading.Timer(seconds + GRACE, end, [signal.SIGKILL])]
    for timer in timers:
        timer.start()
    try:
        yield
        child.wait()
    finally:
        for timer in timers:
            timer.cancel()
        end(signal.SIGKILL)


def compute(args: argparse.Namespace) -> None:
    """Does a job in this process, and prints its lines."""
    set_up(None, cpu_devices=1, gpu_tuning=args.tuning)
    if args.tiny:
        stepper.is_resident = lambda rows: True  # also on a CPU
    elif is_cpu():
        raise SystemExit("There is no accelerator. To rehearse on a CPU: --tiny")
    cases = CASES[args.child]
    if args.tiny:
        ends = cases[:: max(len(cases) - 1, 1)]
        cases = [case._replace(batch=8, steps=min(case.steps, 2)) for case in ends]
    lines = {"first": first, "fit": whole}.get(args.child, time_cases)(args, cases)
    stdout, device = sys.stdout, jax.local_devices()[0].device_kind
    with contextlib.redirect_stdout(sys.stderr):  # `fit` prints too
        for line in lines:
            print(json.dumps({"device": device, **line}), file=stdout, flush=True)


def first(args: argparse.Namespace, cases: Sequence[Case]) -> Iterator[Json]:
    """Times the way to the end of the first call, whose many steps take little next to compiling."""
    (case,), imported = cases, time.time() - args.began
    takes = make_stepper(case, args.tiny)
    jax.block_until_ready(takes.take(0, case.steps))
    line = {"import_s": imported, "seconds": time.time() - args.began}
    yield {**line, **case._asdict(), **time_steps(takes, case, args.tiny)}


def time_cases(args: argparse.Namespace, cases: Sequence[Case]) -> Iterator[Json]:
    """Compiles a few cases at once, for which `compile_s` is longer than for one alone; then times each by itself."""
    for start in range(0, len(cases), COMPILED_AT_ONCE):
        some = cases[start : start + COMPILED_AT_ONCE]
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(compile_case, case, args.tiny) for case in some]
        for case, future in zip(some, futures, strict=True):
            try:
                takes, built = future.result()
                yield {**case._asdict(), **built, **time_steps(takes, case, args.tiny)}
            except Exception as error:  # the others may do, for instance with less memory
                yield {**case._asdict(), "failed": f"{type(error).__name__}: {str(error)[:300]}"}


def configured(shape: str, tiny: bool) -> ConfigDict:
    values = {"MNIST": mnist, "SVHN": svhn}[shape].get_config("tiny" if tiny else None)
    if tiny:  # and tinier still, as a CPU takes long for convolutions in loops
        values.model.filters, values.data.num_train, values.train.batch_size = (4, 4, 4), 32, 8
        values.model.couplings, values.refine.epochs = 2, 1
    return values


def make_stepper(case: Case, tiny: bool) -> Stepper:
    """Takes the steps of the autoencoder as `fit` does, on random images and a single device."""
    values, configs = configured(case.shape, tiny), []
    values.train.swap_weight = values.train.chroma_weight = 0.0  # the rival has neither
    values.train.batch_size, values.train.dtype = case.batch, case.dtype
    for values.train.seed in range(max(case.runs, 1)):
        configs.append(parse(values))
    side, channels = SHAPES[case.shape]
    images, labels = example(side, channels, values.data.num_train or COUNTS[case.shape])
    model = build(configs[0].model, images.shape[1:], 10, case.dtype)
    (phase, span), *_ = schedule(configs[0], len(images))
    states = [init_state(model, config) for config in configs]
    tables = [{"images": images, "labels": labels}] * len(configs)
    layout = Layout(Mesh(np.array(jax.local_devices()[:1]), (AXIS,)), is_group=case.runs > 0)
    return Stepper(model, phase, span, configs, states, tables, layout)


def compile_case(case: Case, tiny: bool) -> tuple[Stepper, Json]:
    """Its stepper, and what it takes to compile what `take` runs."""
    takes = make_stepper(case, tiny)
    begin = time.perf_counter()
    (program,) = takes.compile(0, {case.steps})
    memory, seconds = program.memory_analysis(), time.perf_counter() - begin
    assert memory
    # The peak of the process holds, besides, what XLA takes to choose algorithms.
    sizes = {"temp_mb": memory.temp_size_in_bytes / 1e6, "arguments_mb": memory.argument_size_in_bytes / 1e6}
    return takes, {"compile_s": seconds, **sizes}


def time_steps(takes: Stepper, case: Case, tiny: bool) -> Json:
    """The median milliseconds of a step, over stretches of a fifth of a second with two calls in flight as in `fit`."""

    def stretch(calls: int) -> tuple[float, float]:
        begin, before = time.perf_counter(), None
        for _ in range(calls):
            taken = takes.take(0, case.steps)  # all in the order of the first epoch
            jax.block_until_ready(before)
            before = taken
        loss = np.asarray(taken[0]["reconstruction"]).mean()
        return (time.perf_counter() - begin) / calls, float(loss)

    stretch(2)
    calls = max(2, round((0.02 if tiny else 0.2) / stretch(2)[0]))
    seconds, losses = zip(*(stretch(calls) for _ in range(3 if tiny else 7)), strict=True)
    each = 1e3 * np.array(seconds) / case.steps
    runs, ms = max(case.runs, 1), statistics.median(each.tolist())
    line = {"ms_per_step": ms, "quartiles": np.quantile(each, (0.25, 0.75)).tolist(), "ms_per_run": ms / runs}
    return {**line, "images_per_s": 1e3 * runs * case.batch / ms, "loss": losses[-1], "peak_mb": peak_mb()}


def whole(args: argparse.Namespace, _: Sequence[Case]) -> Iterator[Json]:
    """Times `fit` with MNIST's configuration.

    `compile_s` is the sum over all programs, of which some are compiled at once; the seconds of the phases are without
    it, and without test figures.
    """
    compiling: list[float] = []

    def note(event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiling.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    values, begin = configured("MNIST", args.tiny), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        values.data.dir, values.data.cache_dir, run = args.data_dir, folder, Path(folder) / "run"
        config = parse(values)
        splits, kind = find_images(config.data)
        fit.load_splits = lambda config, prepare=True: splits
        loaded = time.perf_counter()
        finished = fit.fit(config, run).finished
        line = {"images": kind, "load_s": loaded - begin, "fit_s": time.perf_counter() - loaded, "finished": finished}
        phases = {}
        for phase, span in schedule(config, len(splits.train)):
            rates = [epoch["images_per_s"] for epoch in read_metrics(run, phase.name)]
            size = span.steps_per_epoch * span.batch_size
            phases[phase.name] = {"epochs": len(rates), "seconds": sum(size / rate for rate in rates)}
        test = read_metrics(run, "test")[-1]
    line |= {"compile_s": sum(compiling), "programs": len(compiling), "phases": phases, "peak_mb": peak_mb()}
    yield {**line, **{name: test[name] for name in ("reconstruction", "content_accuracy")}}


def find_images(config: DataConfig) -> tuple[Splits, str]:
    """MNIST if `config.dir` has it, or else random images of its size; and which of these."""
    kind = "random, without --data_dir"
    if config.dir:
        try:
            return load_splits(config, prepare=False), "MNIST"
        except UserError as error:
            kind = f"random: {error}"
    train = Dataset(*example(*SHAPES["MNIST"], config.num_train or COUNTS["MNIST"]), tuple("0123456789"))
    return Splits(train, train[np.arange(len(train) // 6)], "random"), kind


def peak_mb() -> float | None:
    """The most memory that this process has had on the device so far; None if that is not known."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 1e6 if stats else None


if __name__ == "__main__":
    main()
