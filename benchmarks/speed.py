"""Measures speed as ratios of times on one machine, preferably one that is otherwise idle.

    python benchmarks/speed.py step --rival_python=torch-env/bin/python   # training step and inference, against PyTorch
    python benchmarks/speed.py layers    # each convolution and its gradients on one core, against flax
    python benchmarks/speed.py ways      # the same with many images on a whole device, such as a GPU
    python benchmarks/speed.py loop      # all of `fit` against the bare step
    python benchmarks/speed.py start     # seconds from the command to the first training step, cold and warm
    python benchmarks/speed.py scaling   # a step with 20,000, 60,000 and 120,000 images
    python benchmarks/speed.py use       # 1,000 calls of `Model.transfer` against the bare networks
    python benchmarks/speed.py demo --model=mnist   # milliseconds from a stroke to all classes in its style
    python benchmarks/speed.py table     # the tables of docs/pages/performance.md

Each command but the last appends JSON lines to --out. Absolute times are only there to compute the ratios from; they
mean little by themselves. `pytorch_rival.py` says how to make the rival's environment.
"""

import argparse
import json
import os
from pathlib import Path

from benchmarks import speed_fit, speed_layers, speed_step, speed_table, speed_use
from benchmarks.timing import SHAPES
from infoae_jax.runs.provenance import environment

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {
        "step": speed_step.step_against_rival,
        "layers": speed_layers.layers,
        "ways": speed_layers.ways,
        "loop": speed_fit.loop,
        "start": speed_fit.start,
        "scaling": speed_fit.scaling,
        "use": speed_use.use,
        "demo": speed_use.demo,
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
    inner.add_argument("--task", choices=speed_step.TASKS, default="train")
    for name, default in (("side", 28), ("channels", 1), ("batch", 256)):
        inner.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.command == "table":
        print(speed_table.table(args.out, speed_step.TASKS, SHAPES))
        return
    if args.command == "ours":
        speed_step.ours(args)
        return
    for result in commands[args.command](args):
        line = {"command": args.command, **result, "cores": os.cpu_count(), "environment": environment()}
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({"command": args.command, **result}), flush=True)


if __name__ == "__main__":
    main()
