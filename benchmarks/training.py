"""Prints how many images per second a training step takes in, beside the plain loop of XNOR-Net-PyTorch.

    python benchmarks/training.py [--arch nin vgg resnet20] [--seconds 10]

The plain loop: float32, images channel by channel, nothing compiled. Ours is what `make train-…` runs on a CPU: accelerated, compiled,
channels last, bfloat16 where that is fast, bits counted in the forward pass (--no-popcount-forward: not), and an EMA. Both take random
images of 32 px forward and backward, binarize, restore and step, by turns in one process; printed are the medians, their quartiles and
the ratio. Then ours with the smaller images of the first epochs.
"""
import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import by_turns, cpu_name  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util.binop import BinOp  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.train import steps  # noqa: E402
from util.train.recipe import Recipe  # noqa: E402


def step(model, optimizer, bin_op, x, y, bf16):
    optimizer.zero_grad(set_to_none=True)
    with bin_op.binarized():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x)
        F.cross_entropy(logits.float(), y).backward()
    bin_op.updateBinaryGradWeight()
    optimizer.step()


def plain(build, images, labels):
    """Return a function that does one step of XNOR-Net-PyTorch's loop."""
    model = build(estimator="clip")
    optimizer, bin_op = torch.optim.Adam(model.parameters(), foreach=False), BinOp(model)
    return lambda: step(model, optimizer, bin_op, images, labels, False)


def ours(build, images, labels, **flags):
    """Return a function that does one step as CIFAR_10/main.py --compile does; flags: of steps.Machine."""
    torch.compiler.reset()  # each function is compiled for a few shapes at most
    model = build().to(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    machine = steps.Machine(cpu, steps.fast_bf16(cpu), compiled=True, **flags)
    learner = steps.Learner(model, Recipe(1, 0.001, len(images)), machine, steps.ema_of(model))
    x = images.contiguous(memory_format=torch.channels_last)
    return lambda: (
        step(learner.forward, learner.optimizer, learner.bin_op, x, labels, machine.bf16), steps.update_ema(learner.ema, model)
    )  # fmt: skip


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    script = load_script("CIFAR_10/main.py")
    parser.add_argument("--arch", nargs="+", choices=list(script.MODELS), default=list(script.NETWORKS), help="networks")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a step")
    parser.add_argument("--seconds", type=float, default=10, help="for each network and size of images")
    parser.add_argument("--popcount-forward", action=argparse.BooleanOptionalAction, default=True, help="count bits in the forward pass")
    parser.add_argument("--int8-gradients", action="store_true", help="round large layers' gradients to 8 bits")
    args = parser.parse_args()
    flags = {"popcount_forward": args.popcount_forward, "int8_gradients": args.int8_gradients}
    steps.keep_memory()
    bf16 = steps.fast_bf16(torch.device("cpu"))
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, fast bfloat16: {bf16}, torch {torch.__version__}")
    print(", ".join(f"{name}: {value}" for name, value in flags.items()))
    for arch in args.arch:
        labels = torch.arange(args.batch_size) % 10
        images = {size: torch.randn(args.batch_size, 3, size, size) for size in (32, 24, 16)}
        build = script.MODELS[arch]
        functions = plain(build, images[32], labels), ours(build, images[32], labels, **flags)
        both = args.batch_size / by_turns(functions, args.seconds, least=3)
        low, median, high = np.percentile(both, [25, 50, 75], axis=0)
        ratio = np.median(both[:, 1] / both[:, 0])
        print(f"{arch}, 32 px: plain {median[0]:.1f} ({low[0]:.1f} - {high[0]:.1f}), ours {median[1]:.0f} ({low[1]:.0f} - {high[1]:.0f})"
              f" images/s: {ratio:.1f} times as fast", flush=True)  # fmt: skip
        for size in (24, 16):
            alone = np.median(args.batch_size / by_turns([ours(build, images[size], labels, **flags)], args.seconds / 2, least=3))
            print(f"{arch}, {size} px: ours {alone:.0f} images/s", flush=True)


if __name__ == "__main__":
    run(main)
