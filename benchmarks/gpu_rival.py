"""The rival in `gpu.py`: the same training step in PyTorch on a GPU, in a separate environment.

    torch-env/bin/python -m benchmarks.gpu_rival   # from the repository; prints a JSON line for each case

A step gathers its images on the device, takes an Adam step of all networks on the errors of the reconstruction and (for
MNIST) of its cycle, the adversary and the content classifier, and two steps more of the adversary. Modes: 'eager' or
'compile', each also with a step as one CUDA graph. float32 has products in TF32, as XLA has them by default.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.pytorch_rival import All, Reverse

SHAPES = {"MNIST": (28, 1, 60_000, 1.0), "SVHN": (32, 3, 73_257, 0.0)}  # side, channels, images, weight of the cycle
FIELDS = "shape", "batch", "dtype", "mode"
CASES = (  # the quick ones first: to compile one may take as long as all of these
    *(("MNIST", batch, "float32", "eager+graph") for batch in (256, 1024, 4096)),
    *(("MNIST", 256, "float32", mode) for mode in ("eager", "compile+graph")),
    *((shape, batch, "bfloat16", "eager+graph") for shape, batch in (("MNIST", 256), ("MNIST", 4096), ("SVHN", 64))),
    *((shape, 64, "float32", "eager+graph") for shape in SHAPES),
    *(("MNIST", 256, "float32", "compile"), ("MNIST", 4096, "float32", "compile+graph")),
    ("MNIST", 4096, "bfloat16", "compile+graph"),
)
TINY_CASES = (("MNIST", 8, "float32", "eager"), ("SVHN", 8, "bfloat16", "eager"))


def losses(net: nn.Module, x: torch.Tensor, y: torch.Tensor, cycle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of all losses, and the latents without gradients."""
    z = net.encoder(x)
    drawn = net.decoder(z, y)
    loss = F.mse_loss(drawn, x) + F.cross_entropy(net.adversary(Reverse.apply(z, 0.005)), y)
    loss = loss + F.cross_entropy(net.classifier(x), y)
    if cycle:
        loss = loss + cycle * F.mse_loss(net.decoder(net.encoder(drawn.clamp(0, 1)), y), x)
    return loss, z.detach()


def make_step(shape: str, batch: int, dtype: str, mode: str, device: str) -> Callable[[], torch.Tensor]:
    """A function that takes a step on random images, and returns its loss."""
    side, channels, count, cycle = SHAPES[shape]
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    net = All(side, channels, True).to(device, memory_format=torch.channels_last)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels, order = torch.randint(0, 10, (count,), device=device), torch.randperm(count, device=device)
    done, within = torch.zeros((), dtype=torch.long, device=device), torch.arange(batch, device=device)
    options = {"fused": True, "capturable": True} if device == "cuda" else {}
    adam = torch.optim.Adam(net.parameters(), 1e-3, **options)
    adam_adversary = torch.optim.Adam(net.adversary.parameters(), 1e-3, **options)
    forward = torch.compile(losses) if "compile" in mode else losses
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled="graph" not in mode)

    def step() -> torch.Tensor:
        rows = order[(done * batch + within) % count]
        x, y = images[rows].float().div_(255), labels[rows]
        with autocast:
            loss, z = forward(net, x, y, cycle)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        for _ in range(2):
            with autocast:
                guess = F.cross_entropy(net.adversary(z), y)
            adam_adversary.zero_grad(set_to_none=True)
            guess.backward()
            adam_adversary.step()
        done.add_(1)
        return loss.detach()

    if "graph" not in mode:
        return step
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):  # after which everything has its place
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


def time_case(shape: str, batch: int, dtype: str, mode: str, device: str) -> dict[str, Any]:
    """Median milliseconds of a step over several stretches of steps, after a first one; the seconds until its end."""
    begin, times, steps = time.perf_counter(), [], 100 if device == "cuda" else 2
    step = make_step(shape, batch, dtype, mode, device)
    for _ in range(8):
        for _ in range(steps):
            last = step()
        loss = last.item()  # waits for the device
        times.append(time.perf_counter())
    ms = 1e3 * statistics.median(b - a for a, b in itertools.pairwise(times)) / steps
    return {"ready_s": times[0] - begin, "ms_per_step": ms, "images_per_s": 1e3 * batch / ms, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a few steps on the CPU")
    device, cases = "cuda", CASES
    if parser.parse_args().tiny:
        device, cases = "cpu", TINY_CASES
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    for case in cases:
        line = {"device": name, "torch": torch.__version__, **dict(zip(FIELDS, case, strict=True))}
        try:
            torch.compiler.reset()
            line |= time_case(*case, device)
            if device == "cuda":
                line["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
                torch.cuda.reset_peak_memory_stats()
        except Exception as error:
            line["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
