"""The rival in `speed.py step`: the same networks in PyTorch on the CPU, in a separate environment.

    python3 -m venv torch-env && torch-env/bin/pip install torch==2.13.0 numpy
    echo 20 | torch-env/bin/python benchmarks/pytorch_rival.py --task train --side 28 --channels 1 --mode compile

Tasks: 'train' (a step of networks A and B, as in the paper), 'train_all' (also the content classifier and three steps
of the adversary, as in our default recipe), 'encode', 'decode'. Reads numbers of steps, one a line, and prints for each
the median of the steps' milliseconds.
"""

import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, lam):
        ctx.lam = lam
        return z.view_as(z)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.lam * grad, None


class Encoder(nn.Module):
    def __init__(self, channels, valid, flat):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(channels, 32, 5, 2, 2),
                nn.Conv2d(32, 64, 5, 2, 2),
                nn.Conv2d(64, 128, 3, 2, 0 if valid else 1),
            ]
        )
        self.hidden, self.latent = nn.Linear(flat, 256), nn.Linear(256, 16)

    def forward(self, x):
        for conv in self.convs:
            x = F.relu(conv(x))
        return F.normalize(self.latent(F.relu(self.hidden(x.flatten(1)))))


class Decoder(nn.Module):
    def __init__(self, channels, valid, side):
        super().__init__()
        self.side = side
        self.first, self.second = nn.Linear(26, 256), nn.Linear(256, 128 * side**2)
        odd = 0 if valid else 1
        self.convs = nn.ModuleList(
            [
                nn.ConvTranspose2d(128, 64, 3, 2, odd, odd),
                nn.ConvTranspose2d(64, 32, 5, 2, 2, 1),
                nn.ConvTranspose2d(32, channels, 5, 2, 2, 1),
            ]
        )

    def forward(self, z, y):
        h = F.relu(self.first(torch.cat([z, F.one_hot(y, 10).to(z.dtype)], 1)))
        h = F.relu(self.second(h)).view(-1, 128, self.side, self.side)
        for conv in self.convs[:-1]:
            h = F.relu(conv(h))
        return self.convs[-1](h)


class All(nn.Module):
    def __init__(self, side, channels, classifier):
        super().__init__()
        valid = side % 8 != 0
        inner = (side // 4 - 3) // 2 + 1 if valid else side // 8
        self.encoder, self.decoder = Encoder(channels, valid, 128 * inner**2), Decoder(channels, valid, inner)
        self.adversary = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 10))
        self.classifier = None
        if classifier:
            self.classifier = nn.Sequential(
                *(nn.Conv2d(channels, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, 10)),
            )

    def forward(self, x, y):
        z = self.encoder(x)
        loss = F.mse_loss(self.decoder(z, y), x) + F.cross_entropy(self.adversary(Reverse.apply(z, 0.005)), y)
        if self.classifier is not None:
            loss = loss + F.cross_entropy(self.classifier(x), y)
        return loss, z.detach()


def make_step(task, mode, side, channels, batch):
    """Makes a function without arguments that takes one step of `task` on random images."""
    torch.manual_seed(0)
    net = All(side, channels, task == "train_all")
    x, y = torch.rand(batch, channels, side, side), torch.randint(0, 10, (batch,))
    if "channels_last" in mode:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    compiled = torch.compile if "compile" in mode else lambda module: module
    if task in ("encode", "decode"):
        module = compiled(net.encoder if task == "encode" else net.decoder)
        args = (x,) if task == "encode" else (F.normalize(torch.rand(batch, 16)), y)

        def infer():
            with torch.inference_mode():
                module(*args)

        return infer
    forward = compiled(net)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    adam_adversary = torch.optim.Adam(net.adversary.parameters(), 1e-3)

    def step():
        adam.zero_grad(set_to_none=True)
        loss, z = forward(x, y)
        loss.backward()
        adam.step()
        for _ in range(2 if task == "train_all" else 0):
            adam_adversary.zero_grad(set_to_none=True)
            F.cross_entropy(net.adversary(z), y).backward()
            adam_adversary.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["train", "train_all", "encode", "decode"], default="train")
    modes = ["eager", "channels_last", "compile", "compile+channels_last"]
    parser.add_argument("--mode", choices=modes, default="eager")
    for name, default in (("side", 28), ("channels", 1), ("batch", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    step = make_step(args.task, args.mode, args.side, args.channels, args.batch)
    for line in sys.stdin:
        times = []
        for i in range(int(line) + 1):
            start = time.perf_counter()
            step()
            if i:  # the first step is not counted, as with ours
                times.append(1e3 * (time.perf_counter() - start))
        print(statistics.median(times), flush=True)


if __name__ == "__main__":
    main()
