"""`speed.py use` and `demo`: a trained model in use."""

import argparse
import functools
import io
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image, ImageDraw

from benchmarks.timing import SHAPES, example
from configs import mnist, svhn
from infoae_jax.config import parse
from infoae_jax.devices.mesh import AXIS, data_mesh
from infoae_jax.devices.setup import set_up
from infoae_jax.inference.model import Model
from infoae_jax.inference.styles import StyleBank
from infoae_jax.models.autoencoder import build, fresh_variables
from infoae_jax.runs.folder import RunInfo
from infoae_jax.types import Json, Tree


def use(args: argparse.Namespace) -> Iterator[Json]:
    """Times `Model.transfer` of 1,000 images against the bare jitted `encode` and `decode`, in turn.

    Both share the work among the same devices. The bare functions find their input there and leave their output there.
    """
    count = 1000
    set_up(count)
    mesh = data_mesh()
    whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    for shape, (side, channels) in SHAPES.items():
        config = parse((mnist if side == 28 else svhn).get_config())
        module = build(config.model, (side, side, channels), 10)
        variables = jax.device_put(fresh_variables(module, 0), whole)
        images, labels = example(side, channels, count)
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
