"""Speed, as ratios measured in one run on one machine: python benchmarks/speed.py loop

Each command prints JSON lines; absolute times are there to compute the ratios from, and mean little by themselves.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from configs import rendered
from infoae_jax import data, runlog, step, train
from infoae_jax.config import Config, parse
from infoae_jax.model import build


def loop_overhead(config: Config, repeats: int) -> dict[str, float]:
    """Seconds of an epoch in `fit` (checkpoints and logs included, test figures not) against the bare jitted step.

    The bare step runs as often, on one batch that is on the device already. Both run in turn; medians are compared.
    """
    splits = data.load(config.data)
    steps = len(splits.train) // config.train.batch_size
    bare = _bare_epoch(config, splits)
    whole, alone = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            if not train.fit(config, folder).finished:
                raise SystemExit("stopped before the end: nothing was measured")
            epochs = runlog.read(folder, "epoch")[1:]  # the first one compiles
            whole += [steps * config.train.batch_size / line["images_per_s"] for line in epochs]
        alone += [bare() for _ in range(repeats)]
    fit_s, bare_s = statistics.median(whole), statistics.median(alone)
    return {"fit_ms_per_step": 1e3 * fit_s / steps, "bare_ms_per_step": 1e3 * bare_s / steps, "ratio": fit_s / bare_s}


def _bare_epoch(config: Config, splits: data.Splits) -> Callable[[], float]:
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    parts = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shape = splits.train.images.shape[1:]
    model = build(config.model, (shape[0], shape[1], shape[2]), len(splits.train.class_names))
    size = config.train.batch_size
    batch = jax.device_put((splits.train.images[:size], splits.train.labels[:size]), parts)
    hyper = jax.device_put(step.make_hyper(config.train, len(splits.train)), whole)
    take_step = jax.jit(
        functools.partial(step.train_step, model, config.train),
        donate_argnums=0,
        in_shardings=(whole, parts, parts, whole),
        out_shardings=whole,
    )
    state, _ = take_step(jax.device_put(step.init_state(model, config.train, 0), whole), *batch, hyper)

    def epoch() -> float:
        nonlocal state
        jax.block_until_ready(state)
        begin = time.perf_counter()
        before = None
        for _ in range(len(splits.train) // size):
            state, metrics = take_step(state, *batch, hyper)
            jax.block_until_ready(before)  # as `fit` does: on several CPU devices XLA deadlocks on a long queue
            before = metrics
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["loop"], help="loop: the whole training loop against the bare step")
    parser.add_argument("--repeats", type=int, default=5, help="epochs measured of either kind, twice")
    parser.add_argument("--cpu_devices", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.cpu_devices)
    values = rendered.get_config()
    values.train.epochs = args.repeats + 1
    values.log.sample_epochs = ()
    result = loop_overhead(parse(values), args.repeats)
    device = f"{len(jax.local_devices())} x {jax.local_devices()[0].device_kind}"
    print(json.dumps({"command": args.command, "device": device, **result, "environment": runlog.environment()}))


if __name__ == "__main__":
    main()
