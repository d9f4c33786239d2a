"""Binarized networks on CIFAR-10: train, evaluate, and name what the detector found.

    python3 main.py --evaluate                                   accuracy of the weights in models/
    python3 main.py --video CLIP --save OUT                      detect what moves in a clip and name it
    python3 main.py --multi_fastMCD RESULTS --label automobile   name the regions that the fastMCD program wrote
    python3 main.py                                              train
"""
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from tqdm import tqdm  # noqa: E402

from util import checkpoint, data, naming, training, xnor  # noqa: E402
from util.binop import BinOp  # noqa: E402
from util.cli import Parser, add_common_arguments, add_engine_arguments, run  # noqa: E402
from util.layers import BinConv2d  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
ALSO_RIGHT = {1: {9}}  # asked for automobiles, a truck is right too
SHAPE = (3, 32, 32)  # channels, height, width
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
HELD_OUT = 2000  # training images that pick the epoch


# ---- Models ----------------------------------------------------------------------------------------------------------
class NIN(nn.Module):
    """Network in Network, (N, 3, 32, 32) -> (N, 10) logits >= 0: 0.97 M weights, 98 % of them 1-bit.

    Keys and shapes are those of XNOR-Net-PyTorch. Two things differ, neither of which changes what a checkpoint computes: dropout
    is 0 by default (0.5 there; too much for short trainings), and the last pooling takes any size, so that training can use smaller images.
    """

    def __init__(self, dropout=0.0, estimator="polynomial"):
        super().__init__()

        def block(in_channels, out_channels, kernel_size, padding=0, dropout=0.0):
            return BinConv2d(in_channels, out_channels, kernel_size, padding=padding, dropout=dropout, estimator=estimator)

        self.xnor = nn.Sequential(
            nn.Conv2d(3, 192, 5, padding=2),
            nn.BatchNorm2d(192, eps=1e-4, affine=False),
            nn.ReLU(),
            block(192, 160, 1),
            block(160, 96, 1),
            nn.MaxPool2d(3, 2, padding=1),
            block(96, 192, 5, padding=2, dropout=dropout),
            block(192, 192, 1),
            block(192, 192, 1),
            nn.AvgPool2d(3, 2, padding=1),
            block(192, 192, 3, padding=1, dropout=dropout),
            block(192, 192, 1),
            nn.BatchNorm2d(192, eps=1e-4, affine=False),
            nn.Conv2d(192, 10, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.05)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.xnor(x).flatten(1)


MODELS = {"nin": NIN}


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv=None):
    parser = Parser(description="Binarized networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    add_common_arguments(parser, list(MODELS), CLASSES, epochs=10, lr=0.003)
    add_engine_arguments(parser)
    return parser.parse_args(argv)


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args, train):
    from torchvision import datasets  # here, since importing it takes as long as all the rest

    images, labels = data.load(datasets.CIFAR10, args.data or HERE / "data", train, CLASSES, "RGB", 32)
    return images[: args.limit], labels[: args.limit]


def preprocess(images):
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)


def to_images(crops):
    """Return uint8 (N, 3, 32, 32) from a list of RGB crops (H, W, 3) of any size."""
    small = [cv2.resize(crop, (32, 32), interpolation=cv2.INTER_AREA) for crop in crops]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


# ---- Train, evaluate, classify ---------------------------------------------------------------------------------------
def image_size(progress, pretrained):
    """Small images first: the net learns most at a quarter of the cost; the last epochs are at full size.

    A net that starts from trained weights has had its small images and starts at 24 px.
    """
    if pretrained:
        progress = 0.55 + 0.45 * progress
    return 16 if progress < 0.55 else 24 if progress < 0.85 else 32


def train_epoch(model, step_model, images, labels, optimizer, args, epoch, device, bin_op):
    """Return the mean loss after one pass over `images` in an order and with an augmentation that `seed` and `epoch` fix."""
    generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    batches = order.split(args.batch_size)
    size = image_size((epoch - 1) / args.epochs, args.pretrained)
    model.train()
    total = 0.0
    for i, batch in enumerate(tqdm(batches, f"epoch {epoch} at {size} px", unit="batch", leave=False, disable=None)):
        progress = (epoch - 1 + i / len(batches)) / args.epochs
        training.set_lr(optimizer, args.lr * min(1, progress * 50) * (1 - progress))
        x = data.random_mirror(data.random_shift(images[batch], 2, generator), generator)
        x = preprocess(x.to(device))
        if size < 32:
            x = F.interpolate(x, size, mode="bilinear", antialias=True).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with bin_op.binarized():
            loss = F.cross_entropy(step_model(x), labels[batch].to(device))
            loss.backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()
        total += training.finite(loss.item(), epoch, i) * len(batch)
    return total / len(images)


@torch.no_grad()
def evaluate(model, images, labels, device, bin_op):
    """Return (mean loss, share of right answers in [0, 1]); changes nothing."""
    model.eval()
    loss = right = 0.0
    with bin_op.binarized():
        for x, y in zip(images.split(250), labels.to(device).split(250), strict=True):
            logits = model(preprocess(x.to(device)))
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
    return loss / len(images), right / len(images)


@torch.no_grad()
def classify(model, crops, device):
    """Return (labels, probabilities), both (N,), for a list of RGB crops; the caller holds the weights binarized."""
    probabilities = model(preprocess(to_images(crops).to(device))).softmax(1)
    best = probabilities.max(1)
    return best.indices.tolist(), best.values.tolist()


def make_detector(width, height):
    """Return a function from a BGR frame, uint8 (height, width, 3), to what moves in it (fastmcd.Result)."""
    import fastmcd  # here, since only --video needs the native build

    detector = fastmcd.Detector(width, height)
    return lambda frame: detector.detect(fastmcd.grey(frame))


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model, args, device, bin_op):
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    log = training.Log(HERE / "models", args, model, optimizer)
    step_model = torch.compile(model, dynamic=False) if args.compile else model
    for epoch in range(log.epoch + 1, args.epochs + 1):
        start = time.perf_counter()
        loss = train_epoch(model, step_model, images[kept], labels[kept], optimizer, args, epoch, device, bin_op)
        _, accuracy = evaluate(model, images[held_out], labels[held_out], device, bin_op)
        log.end_epoch(epoch, loss, accuracy, time.perf_counter() - start)
    log.load_best()
    _, accuracy = evaluate(model, *load_data(args, train=False), device, bin_op)
    log.finish(accuracy)
    return accuracy


def main(argv=None):
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    model = MODELS[args.arch]().to(device, memory_format=torch.channels_last)
    bin_op = BinOp(model)
    names = args.fastMCD or args.multi_fastMCD or args.video
    if not (args.evaluate or args.export or names):
        if args.pretrained:
            checkpoint.load_into(model, args.pretrained, args.arch)
        return train(model, args, device, bin_op)
    model.eval()
    weights = HERE / "models" / f"{args.arch}.best.pth.tar"
    model = xnor.prepare(args, model, weights, SHAPE, MEAN, STD, device)
    if args.evaluate:
        _, accuracy = evaluate(model, *load_data(args, train=False), device, bin_op)
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if names:
        with bin_op.binarized():
            return naming.run(args, lambda crops: classify(model, crops, device), make_detector, CLASSES, ALSO_RIGHT)


if __name__ == "__main__":
    run(main)
