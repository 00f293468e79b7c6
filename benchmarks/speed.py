"""Measures speed as ratios of times on one machine, preferably one that is otherwise idle.

    python benchmarks/speed.py step --rival_python=torch-env/bin/python   # training step and inference, against PyTorch
    python benchmarks/speed.py layers    # each convolution and its gradients on one core, against flax
    python benchmarks/speed.py ways      # the same with many images on a whole device, such as a GPU
    python benchmarks/speed.py loop      # all of `fit` against the bare step
    python benchmarks/speed.py start     # seconds from the command to the first training step, cold and warm
    python benchmarks/speed.py scaling   # a step with 20,000, 60,000 and 120,000 images
    python benchmarks/speed.py use       # 1,000 calls of `Model.transfer` against the bare networks
    python benchmarks/speed.py demo --model=mnist   # milliseconds from a stroke to all classes in its style
    python benchmarks/speed.py table     # the tables of README.md

Each command but the last appends JSON lines to --out. Absolute times are only there to compute the ratios from; they
mean little by themselves. `pytorch_rival.py` says how to make the rival's environment.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageDraw

from benchmarks import speed_table
from configs import mnist, rendered, svhn
from infoae_jax.config import Config, parse
from infoae_jax.devices.batching import make_batched
from infoae_jax.devices.mesh import AXIS
from infoae_jax.devices.setup import set_up
from infoae_jax.inference.model import Model
from infoae_jax.inference.styles import StyleBank
from infoae_jax.models import convolution
from infoae_jax.models.autoencoder import build
from infoae_jax.runs.folder import RunInfo
from infoae_jax.runs.metrics import read_metrics
from infoae_jax.runs.provenance import environment
from infoae_jax.training.fit import fit
from infoae_jax.training.state import init_state
from infoae_jax.training.stepper import make_stepper
from infoae_jax.types import Json, Tree, Variables

HERE = Path(__file__).parent
SHAPES = {"MNIST": (28, 1), "SVHN": (32, 3)}
RIVAL_MODES = "eager", "channels_last", "compile", "compile+channels_last"
TASKS = {"train": (256, 64, 1024), "encode": (1000,), "decode": (1000,), "train_all": (256,)}


def median_ms(function: Callable[[], Tree], repeats: int, skip: int = 3) -> float:
    """Median milliseconds of `repeats` calls, each awaited, after `skip` calls that are not counted."""
    times = []
    for i in range(repeats + skip):
        begin = time.perf_counter()
        jax.block_until_ready(function())
        if i >= skip:
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def _data_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def _example(side: int, channels: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, channels), np.uint8), rng.integers(0, 10, count).astype(np.int32)


# --- step -------------------------------------------------------------------------------------------------------------


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
                commands = {"ours": [sys.executable, __file__, "ours", *options]}
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
    set_up(args.batch, compilation_cache=False)  # the rival compiles in its process too
    values = mnist.get_config() if args.side == 28 else svhn.get_config()
    values.train.batch_size, values.model.bottleneck = args.batch, 16
    # The rival has no alignment and no cycle term.
    values.model.couplings, values.train.cycle_weight = 0, 0.0
    config = parse(values)
    model = build(config.model, (args.side, args.side, args.channels), 10)
    mesh = _data_mesh()
    state = jax.device_put(init_state(model, 0), NamedSharding(mesh, PartitionSpec()))
    images, labels = _example(args.side, args.channels, max(4 * args.batch, 2048))
    function: Callable[[], Tree]
    if args.task.startswith("train"):
        take_steps = make_stepper(model, config.train, images, labels, mesh)
        at = 0

        def function():
            nonlocal state, at
            state, metrics, taken = take_steps(state, at, 1)
            at += taken
            return state, metrics

    else:
        apply = make_batched(functools.partial(model.apply, method=args.task), mesh, args.side**2)
        variables = {"params": state.params}
        z = np.asarray(jax.random.normal(jax.random.key(0), (args.batch, 16)))
        rows = (images[: args.batch],) if args.task == "encode" else (z, labels[: args.batch])

        def function():
            return apply(variables, *rows)

    for line in sys.stdin:
        print(median_ms(function, int(line), skip=1), flush=True)


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERS = [
    # name, side of the input, channels in and out, side of the kernel, padding; MNIST's layers, then SVHN's
    *(("Conv", 28, 1, 32, 5, "SAME"), ("Conv", 14, 32, 64, 5, "SAME"), ("Conv", 7, 64, 128, 3, "VALID")),
    *(("ConvTranspose", 3, 128, 64, 3, "VALID"), ("ConvTranspose", 7, 64, 32, 5, "SAME")),
    *(("ConvTranspose", 14, 32, 1, 5, "SAME"), ("Conv", 32, 3, 32, 5, "SAME"), ("Conv", 16, 32, 64, 5, "SAME")),
    *(("Conv", 8, 64, 128, 3, "SAME"), ("ConvTranspose", 4, 128, 64, 3, "SAME")),
    *(("ConvTranspose", 8, 64, 32, 5, "SAME"), ("ConvTranspose", 16, 32, 3, 5, "SAME")),
]


def layers(args: argparse.Namespace) -> Iterator[Json]:
    """Times each convolution of the network against flax's on one core with 64 images.

    Also gives the share of the core's peak, which is the speed of a product of 1024 x 1024 matrices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    square = jnp.ones((1024, 1024))
    peak = 2 * 1024**3 / median_ms(functools.partial(jax.jit(jnp.matmul), square, square), args.repeats)
    key = jax.random.key(0)
    for name, side, c, d, k, padding in LAYERS:
        layer = [getattr(module, name)(d, (k, k), (2, 2), padding) for module in (convolution, nn)]
        x = jax.random.normal(key, (64, side, side, c))
        variables = layer[0].init(key, x)
        y = layer[0].apply(variables, x)
        g = jax.random.normal(key, y.shape)
        positions = (y if name == "Conv" else x).shape[1] ** 2
        for what in ("forward", "input gradient", "kernel gradient"):
            times = []
            for which in layer:

                def run(variables, x, g, which=which, what=what):
                    if what == "forward":
                        return which.apply(variables, x)
                    _y, pull = jax.vjp(which.apply, variables, x)
                    return pull(g)[what == "input gradient"]

                times.append(median_ms(functools.partial(jax.jit(run), variables, x, g), args.repeats))
            yield {
                "layer": f"{name} {side}x{side}, {c} to {d}, {k}x{k}",
                "what": what,
                "ratio": times[0] / times[1],
                "ours_ms": times[0],
                "flax_ms": times[1],
                "share_of_peak": 2 * 64 * positions * k * k * c * d / times[0] / peak,
            }


def ways(args: argparse.Namespace) -> Iterator[Json]:
    """Times each convolution of the network on this device with 1024 images, as a share of flax's time.

    'all' is forward and both gradients. For transposed convolutions 'forward' compares the ways in which the module
    `convolution` can compute them, without the bias that flax adds. On a GPU the smallest layers take as long as it
    takes to launch them.
    """
    for name, side, c, d, k, padding in LAYERS:
        ours, flax = (getattr(module, name)(d, (k, k), (2, 2), padding) for module in (convolution, nn))
        x = jax.random.normal(jax.random.key(0), (1024, side, side, c))
        variables = ours.init(jax.random.key(1), x)
        before, out = convolution._transposed_geometry(padding, (side, side), (k, k), (2, 2))
        found: dict[str, dict[str, Callable[..., Tree]]] = {"all": {}}
        for which, layer in (("flax", flax), ("ours", ours)):
            found["all"][which] = jax.value_and_grad(functools.partial(_sum_of_squares, layer), argnums=(0, 1))
        if name == "ConvTranspose":
            found["forward"] = {"flax": flax.apply}
            for way in (convolution._merged, convolution._phases, convolution._dilated):
                compute = functools.partial(way, (2, 2), before, out)
                found["forward"][way.__name__[1:]] = lambda v, x, f=compute: f(x, v["params"]["kernel"])
        for what, functions in found.items():
            times = _queued_ms({which: jax.jit(f) for which, f in functions.items()}, (variables, x), args)
            yield {
                "layer": f"{name} {side}x{side}, {c} to {d}, {k}x{k}",
                "what": what,
                "device": jax.local_devices()[0].device_kind,
                "flax_ms": times["flax"],
                "ratios": {which: ms / times["flax"] for which, ms in times.items() if which != "flax"},
            }


def _sum_of_squares(layer: nn.Module, variables: Variables, x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.asarray(layer.apply(variables, x)) ** 2)


def _queued_ms(
    functions: dict[str, Callable[..., Tree]], arguments: Sequence[Tree], args: argparse.Namespace
) -> dict[str, float]:
    """Median milliseconds of a call in a queue of calls, over rounds in which all functions take turns."""
    times: dict[str, list[float]] = {which: [] for which in functions}
    for i in range(args.rounds + 1):
        for which, function in functions.items():
            begin = time.perf_counter()
            for _ in range(args.repeats):
                last = function(*arguments)
            jax.block_until_ready(last)
            if i:  # the first one compiles
                times[which].append(1e3 * (time.perf_counter() - begin) / args.repeats)
    return {which: statistics.median(found) for which, found in times.items()}


# --- loop, start, scaling ---------------------------------------------------------------------------------------------


def loop(args: argparse.Namespace) -> Iterator[Json]:
    """Times an epoch in `fit`, with checkpoints and logs but no test figures, against the same number of bare steps."""
    set_up(rendered.get_config().train.batch_size)
    values = rendered.get_config()
    values.train.epochs = args.repeats + 1
    values.log.sample_epochs = ()
    config = parse(values)
    whole, alone = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            if not fit(config, folder).finished:
                raise SystemExit("stopped before the end: nothing was measured")
            epochs = read_metrics(folder, "epoch")[1:]  # the first one compiles
            whole += [1e3 * config.train.batch_size / line["images_per_s"] for line in epochs]
        steps = config.data.num_train // config.train.batch_size
        take = _bare_steps(config, 32, 3, config.data.num_train)
        alone += [take(steps) for _ in range(args.repeats + 1)][1:]  # as above
    fit_ms, bare_ms = statistics.median(whole), statistics.median(alone)
    yield {"fit_ms_per_step": fit_ms, "bare_ms_per_step": bare_ms, "ratio": fit_ms / bare_ms}


def _bare_steps(config: Config, side: int, channels: int, num_images: int) -> Callable[[int], float]:
    """Makes a function that takes a number of steps and nothing else, and returns their mean milliseconds."""
    mesh = _data_mesh()
    model = build(config.model, (side, side, channels), 10)
    images, labels = _example(side, channels, num_images)
    take_steps = make_stepper(model, config.train, images, labels, mesh)
    state = jax.device_put(init_state(model, 0), NamedSharding(mesh, PartitionSpec()))
    at = 0

    def run(steps: int) -> float:
        nonlocal state, at
        begin, before = time.perf_counter(), None
        for _ in range(steps):
            state, metrics, taken = take_steps(state, at, 1)
            at += taken
            jax.block_until_ready(before)  # as `fit` does: on several CPU devices XLA deadlocks on a long queue
            before = metrics
        jax.block_until_ready(state)
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
        cwd=HERE.parent,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
    ) as child:
        while not read_metrics(run, "step"):
            if child.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with code {child.returncode}")
            time.sleep(0.05)
        seconds = time.perf_counter() - begin
        child.kill()
    return seconds


def scaling(args: argparse.Namespace) -> Iterator[Json]:
    """Times a step with more and more images, in turn; also with small networks, where a difference shows more."""
    set_up(mnist.get_config("tiny").train.batch_size)  # it divides the batch of the default networks
    counts = (20_000, 60_000, 120_000)
    for networks, variant in (("default", ""), ("tiny", "tiny")):
        values = mnist.get_config(variant)
        # The cycle term takes half of a step and does not depend on the number of images.
        values.train.cycle_weight = 0.0
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


# --- use --------------------------------------------------------------------------------------------------------------


def use(args: argparse.Namespace) -> Iterator[Json]:
    """Times `Model.transfer` of 1,000 images against the bare jitted `encode` and `decode`, in turn.

    Both share the work among the same devices. The bare functions find their input there and leave their output there.
    """
    count = 1000
    set_up(count)
    mesh = _data_mesh()
    whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    for shape, (side, channels) in SHAPES.items():
        config = parse((mnist if side == 28 else svhn).get_config())
        module = build(config.model, (side, side, channels), 10)
        variables = jax.device_put({"params": init_state(module, 0).params}, whole)
        images, labels = _example(side, channels, count)
        info = RunInfo(config, module.image_shape, tuple("0123456789"), count, count, "random")
        model = Model(module, variables, info, StyleBank(np.zeros((1, module.bottleneck)), labels[:1]))
        encode, decode = (
            jax.jit(functools.partial(module.apply, method=method), out_shardings=parts)
            for method in ("encode", "decode")
        )
        batch = jax.device_put((images, labels), parts)

        def bare(encode=encode, decode=decode, variables=variables, batch=batch):
            jax.block_until_ready(decode(variables, encode(variables, batch[0]), batch[1]))

        functions: dict[str, Callable[[], Tree]] = {
            "transfer": functools.partial(model.transfer, images, labels),
            "bare": bare,
        }
        times: dict[str, list[float]] = {name: [] for name in functions}
        for i in range(args.repeats + 3):
            for name, function in functions.items():
                begin = time.perf_counter()
                function()
                if i >= 3:
                    times[name].append(1e3 * (time.perf_counter() - begin))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratio = medians["transfer"] / medians["bare"]
        yield {"shape": shape, "batch": count, "ratio": ratio, **{f"{name}_ms": ms for name, ms in medians.items()}}


# --- demo -------------------------------------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> Iterator[Json]:
    """Times the server of `infoae demo`: seconds until it is ready, and milliseconds to answer a drawing.

    An answer is what the page asks for after a stroke: the latent of the drawing, then every class in that style.
    """
    command = [sys.executable, "-m", "infoae_jax", "demo", args.model, "--port=0"]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            lines = iter(child.stdout or ())
            url = next((line.split("http")[1].split()[0] for line in lines if "http" in line), None)
            if url is None:
                raise SystemExit("the page was not served")
            start_s = time.perf_counter() - begin
            times = [_answer_ms(f"http{url}", i) for i in range(args.repeats + 3)][3:]
        finally:
            child.terminate()
    yield {
        "model": args.model,
        "start_s": start_s,
        "answer_ms": statistics.median(times),
        "slowest_ms": max(times),
        "answers": len(times),
    }


def _answer_ms(url: str, number: int) -> float:
    """Milliseconds until all classes are there for a drawing, which differs with `number`."""
    drawing = Image.new("RGB", (280, 280))
    end = (200, 60 + number % 100)
    ImageDraw.Draw(drawing).line([(90, 50), end, (100, 230)], fill="white", width=20)
    buffer = io.BytesIO()
    drawing.save(buffer, "PNG")
    begin = time.perf_counter()
    state = json.loads(_post(f"{url}api/encode?drawing=1", buffer.getvalue(), "image/png"))
    _post(f"{url}api/decode", json.dumps({"z": state["z"]}).encode(), "application/json")
    return 1e3 * (time.perf_counter() - begin)


def _post(url: str, body: bytes, kind: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=60) as answer:
        return answer.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {
        "step": step_against_rival,
        "layers": layers,
        "ways": ways,
        "loop": loop,
        "start": start,
        "scaling": scaling,
        "use": use,
        "demo": demo,
    }
    parser.add_argument("command", choices=[*commands, "ours", "table"])
    parser.add_argument(
        "--out", type=Path, default=HERE / "speed.jsonl", help="JSON lines to append to, or to read (table)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="number of calls (layers, ways, use), answers (demo), rounds (step) or epochs (loop) to measure",
    )
    parser.add_argument("--rounds", type=int, default=6, help="start, scaling, ways: number of rounds")
    parser.add_argument("--rival_python", default="python", help="step: a Python that has PyTorch")
    parser.add_argument("--rival", type=Path, default=HERE / "pytorch_rival.py", help="step: the rival's program")
    parser.add_argument("--data_dir", default="", help="start: folder where TFDS has prepared MNIST")
    parser.add_argument(
        "--model", default="mnist", help="demo: run folder, exported file, or name of a pretrained model"
    )
    inner = parser.add_argument_group("options of `ours`, which `step` calls")
    inner.add_argument("--task", choices=TASKS, default="train")
    for name, default in (("side", 28), ("channels", 1), ("batch", 256)):
        inner.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.command == "table":
        print(speed_table.table(args.out, TASKS, SHAPES))
        return
    if args.command == "ours":
        ours(args)
        return
    for result in commands[args.command](args):
        line = {"command": args.command, **result, "cores": os.cpu_count(), "environment": environment()}
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({"command": args.command, **result}), flush=True)


if __name__ == "__main__":
    main()
