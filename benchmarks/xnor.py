"""Prints how fast packed networks predict, beside PyTorch and onnxruntime, from uint8 pixels to class scores.

    python benchmarks/xnor.py [--arch nin vgg resnet20 LeNet_5] [--batch 1 8 128] [--threads 1 2] [--plot DIR]

All in one process, by turns: each round times every runtime once, so that a busy machine hurts all alike. Printed: the
median of the rounds in ms per image, its quartiles, and how many times slower than the best packed kernel it is. Then each
layer of the packed network: its binary multiply-accumulates per second, as a share of what the kernel's own xnor-popcount-add
reaches in registers in the same run. onnxruntime (pip install onnxruntime onnx onnxscript) is left out where it is missing;
its int8 network is the float one quantized on random images: a rival in speed only.
"""

import contextlib
import logging
import os
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import by_turns, cpu_name  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util import packed  # noqa: E402
from util.binop import BinOp  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.layers import BinConv2d, BinLinear  # noqa: E402
from util.packed.freeze import freeze  # noqa: E402
from util.packed.trace import Shortcut, chain  # noqa: E402
from util.train import checkpoint  # noqa: E402

SCRIPTS = {"nin": "CIFAR_10", "vgg": "CIFAR_10", "resnet20": "CIFAR_10", "LeNet_5": "MNIST"}


def load(arch):
    """Return (script module, model in evaluation mode), trained where there are weights of it."""
    script = load_script(f"{SCRIPTS[arch]}/main.py")
    model = script.MODELS[arch]().eval()
    weights = ROOT / SCRIPTS[arch] / "models" / f"{arch}.best.pth.tar"
    if weights.exists():
        checkpoint.load_into(model, weights, arch)
    else:
        print(f"{arch} is untrained ({weights.relative_to(ROOT)} is missing): as fast, but it classifies nothing")
    return script, model.to(memory_format=torch.channels_last)


def spec_of(script, arch):
    return script.SPEC if arch == "LeNet_5" else script.SPECS[arch]


def onnx_runtimes(model, shape, preprocess, threads):
    """Return name -> function of uint8 images, for onnxruntime's float and int8; empty where it is not installed."""
    try:
        import onnxruntime as ort
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    except ImportError:
        return {}
    logging.disable(logging.WARNING)

    class Calibration(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": preprocess(torch.randint(0, 256, (8, *shape), dtype=torch.uint8)).numpy()} for _ in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as directory:
        paths = {name: str(Path(directory) / f"{name}.onnx") for name in ("fp32", "int8")}
        with contextlib.redirect_stdout(sys.stderr):
            torch.onnx.export(model, torch.zeros(1, *shape), paths["fp32"], input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False)
            quantize_static(paths["fp32"], paths["int8"], Calibration(), quant_format=QuantFormat.QDQ, per_channel=True)
        sessions = {name: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for name, path in paths.items()}
    return {f"onnxruntime {name}": lambda x, s=s: s.run(None, {"x": preprocess(x).numpy()}) for name, s in sessions.items()}


class FloatTwin(nn.Module):
    """The same convolutions without batch norm and sign between them: what a full-precision network of this shape costs."""

    def __init__(self, model):
        super().__init__()
        self.layers, self.shortcuts = nn.ModuleList(), {}
        for i, layer in enumerate(chain(model)):
            if isinstance(layer, BinConv2d):
                layer = nn.Sequential(layer.conv, layer.activation)
            elif isinstance(layer, BinLinear):
                layer = nn.Sequential(nn.Flatten(), layer.linear, nn.ReLU())
            elif isinstance(layer, Shortcut):
                self.shortcuts[i] = layer
            elif isinstance(layer, nn.Linear):
                layer = nn.Sequential(nn.Flatten(), layer)
            self.layers.append(nn.Identity() if isinstance(layer, nn.BatchNorm2d | Shortcut) else layer)

    def forward(self, x):
        maps = [x]
        for i, layer in enumerate(self.layers):
            y = layer(maps[-1])
            if i in self.shortcuts:
                past = F.avg_pool2d(maps[self.shortcuts[i].source], self.shortcuts[i].size)
                y = y + torch.cat([past] * (y.shape[1] // past.shape[1]), 1)
            maps.append(y)
        return maps[-1].flatten(1)


def runtimes(arch, script, model, threads, compiled):
    """Return name -> function of uint8 images (N, C, H, W) that gives class scores; the model's weights are binarized already."""
    bf16 = script.MODELS[arch]().eval()
    bf16.load_state_dict(model.state_dict())
    bf16 = bf16.to(torch.bfloat16).to(memory_format=torch.channels_last)
    found = {
        "torch fp32": lambda x: model(script.preprocess(x)),
        "torch bf16": lambda x: bf16(script.preprocess(x).bfloat16()),
    }
    if compiled:
        fast = torch.compile(model, dynamic=True)
        found["torch.compile fp32"] = lambda x: fast(script.preprocess(x))
    return {**found, **onnx_runtimes(FloatTwin(model), script.SHAPE, script.preprocess, threads)}


def measure(arch, threads, args):
    """Return (threads, batch, runtime) -> ms per image of each round."""
    script, model = load(arch)
    torch.set_num_threads(threads)
    fast = [kernel for kernel in packed.kernels() if kernel != "scalar"]
    networks = {f"packed {k}": freeze(model, spec_of(script, arch), k, threads) for k in fast}
    results = {}
    with torch.inference_mode(), BinOp(model).binarized():
        functions = {name: lambda x, network=network: network(x.numpy()) for name, network in networks.items()}
        functions |= runtimes(arch, script, model, threads, not args.no_compile)
        for batch in args.batch:
            x = torch.randint(0, 256, (batch, *script.SHAPE), dtype=torch.uint8)
            times = by_turns([partial(function, x) for function in functions.values()], args.seconds, least=7)
            results |= {(threads, batch, name): ms for name, ms in zip(functions, 1000 * times.T / batch, strict=True)}
    return results


def report(arch, results):
    """Print a table per thread count and batch size."""
    for threads, batch in dict.fromkeys(key[:2] for key in results):
        rows = {name: np.percentile(times, [25, 50, 75]) for (t, b, name), times in results.items() if (t, b) == (threads, batch)}
        best = min(row[1] for name, row in rows.items() if name.startswith("packed"))
        print(f"\n{arch}, batch {batch}, {threads} thread{'s' * (threads > 1)}: ms per image, median (quartiles), times the best packed")
        for name, (low, median, high) in sorted(rows.items(), key=lambda row: row[1][1]):
            print(f"  {name:<24}{median:9.3f}  ({low:.3f} - {high:.3f}){median / best:8.1f}x")


def multiply_adds(frozen):
    """Return per step (name, multiply-accumulates per image, whether binary); 0 for steps that have none."""
    shape, rows = frozen.spec.shape, []
    for name, keywords in frozen.engine.steps:
        weight = keywords.get("negative", keywords.get("weight"))
        if "stride" not in keywords:
            rows.append((name, 0, False))
            continue
        size = weight.shape[2:] if weight is not None else (keywords["size"],) * 2
        height, width = ((n + 2 * keywords["padding"] - k) // keywords["stride"] + 1 for n, k in zip(shape[1:], size, strict=True))
        shape = (shape[0] if weight is None else len(weight), height, width)
        rows.append((name, 0 if weight is None else weight.size * height * width, "negative" in keywords))
    return rows


def layers(frozen, script, repeats=200):
    """Print the time of each step of a packed network, batch 1, and how near its binary layers come to the limit."""
    x = torch.randint(0, 256, (1, *script.SHAPE), dtype=torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    native, (channels, height, width) = frozen.engine.native, frozen.engine.output
    scores = np.empty((1, height, width, channels), np.float32)
    times, peaks = [], []
    for i in range(repeats):
        native.run(x, scores, True)
        times.append(native.seconds)
        if i % 50 == 0:
            peaks.append(packed.peak(native.kernel))
    median, peak = np.median(times, 0), float(np.median(peaks))
    print(f"\npacked {native.kernel}, 1 thread, batch 1: limit {peak / 1e9:.0f} G binary multiply-accumulates/s (xnor, popcount, add)")
    print(f"{'step':<20}{'ms':>8}{'M MAC':>9}{'G MAC/s':>10}{'of limit':>10}")
    binary_time = binary_macs = 0
    for (name, macs, binary), seconds in zip(multiply_adds(frozen), median, strict=True):
        rate = f"{macs / 1e6:9.2f}{macs / seconds / 1e9:10.1f}" if macs else ""
        share = f"{macs / seconds / peak:10.0%}" if binary else ""
        took = f"{1000 * seconds:8.3f}" if seconds else "       -"  # joined to the step before
        print(f"{name:<20}{took}{rate}{share}")
        binary_time, binary_macs = binary_time + seconds * binary, binary_macs + macs * binary
    rate = binary_macs / binary_time
    print(f"{'all binary layers':<20}{1000 * binary_time:8.3f}{binary_macs / 1e6:9.2f}{rate / 1e9:10.1f}{rate / peak:10.0%}")
    print(f"memory of the network: {native.bytes / 1e3:.0f} kB")


@torch.no_grad()
def agreement(arch, script, model):
    """Print on how many test images the packed network and PyTorch name the same class, and where their logits differ."""
    images, labels = script.load_data(script.parse_args([]), train=False)
    frozen = freeze(model, spec_of(script, arch), threads=os.cpu_count())
    torch.set_num_threads(os.cpu_count())
    with BinOp(model).binarized():
        expected = torch.cat([model(script.preprocess(part)) for part in images.split(250)])
    logits = torch.from_numpy(frozen(images.numpy()))
    far = ((logits - expected).abs().amax(1) > 1e-4).sum().item()
    differ = logits.argmax(1) != expected.argmax(1)
    right = [f"{100 * (scores.argmax(1) == labels).float().mean():.2f} %" for scores in (logits, expected)]
    print(f"\n{arch}, {len(images)} test images: another class than PyTorch on {differ.sum().item()};")
    print(f"logits further than 1e-4 apart on {far} (a sum at a threshold within rounding turns a bit);")
    print(f"right: packed {right[0]}, PyTorch {right[1]}")


def plot(results, arch, path):
    """Write a bar per runtime and batch size: ms per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    groups = sorted({key[:2] for key in results})
    names = list(dict.fromkeys(key[2] for key in results))
    for i, (threads, batch) in enumerate(groups):
        values = [np.median(results.get((threads, batch, name), [np.nan])) for name in names]
        places = np.arange(len(names)) + (i + 0.5) / len(groups) * 0.8 - 0.4
        bars = axes.barh(places, values, 0.8 / len(groups), label=f"batch {batch}, {threads} thread{'s' * (threads > 1)}")
        axes.bar_label(bars, fmt=" %.2f", fontsize="small")
    axes.set(xlabel=f"ms per image, from uint8 pixels to class scores, on {cpu_name()}", title=arch)
    axes.margins(x=0.1)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:])


def parse_args(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", choices=list(SCRIPTS), default=list(SCRIPTS), help="networks")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 128], help="batch sizes")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="thread counts")
    parser.add_argument("--seconds", type=float, default=8, help="for each network, batch size and thread count")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--agree", action="store_true", help="compare the classes of all test images too (downloads the data set)")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write ARCH.xnor.png there")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    print(f"{cpu_name()} ({'/'.join(packed.kernels())}), {os.cpu_count()} CPUs, torch {torch.__version__}")
    for arch in args.arch:
        results = {}
        for threads in args.threads:
            results |= measure(arch, threads, args)
        report(arch, results)
        script, model = load(arch)
        layers(freeze(model, spec_of(script, arch)), script)
        if args.agree:
            agreement(arch, script, model)
        if args.plot:
            args.plot.mkdir(parents=True, exist_ok=True)
            plot(results, arch, args.plot / f"{arch}.xnor.png")
    print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    run(main)
