"""Binarized LeNet-5 on MNIST: train, evaluate, and read the digits that the detector found.

    python3 main.py --evaluate                           accuracy of the weights in models/
    python3 main.py --video CLIP --save OUT              detect what moves in a clip and read it
    python3 main.py --multi_fastMCD RESULTS --label 7    read the regions that the fastMCD program wrote
    python3 main.py                                      train
"""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from util.binop import BinOp  # noqa: E402
from util.cli import Parser, add_common_arguments, add_engine_arguments, run  # noqa: E402
from util.layers import BinConv2d, BinLinear  # noqa: E402
from util.packed import network as xnor  # noqa: E402
from util.train import checkpoint, data, steps  # noqa: E402
from util.train.run import Log  # noqa: E402
from util.watch import naming  # noqa: E402

CLASSES = list("0123456789")
SHAPE = (1, 28, 28)  # channels, height, width
MEAN, STD = (0.1307,), (0.3081,)  # of the 60,000 training images
HELD_OUT = 5000  # training images that pick the epoch
# Arch -> (temperature, probability below which a digit is unknown) of the weights in models/; benchmarks/unknown.py finds them.
CALIBRATION = {"LeNet_5": (1.07, 0.84)}
CUT = {"crop_context": 0.15, "crop_aspect": 1}  # of the detector: square crops, so that there is room beside a 1
LARGEST = 56  # px, twice MNIST's size: larger crops hold nothing more to read


# ---- Models ----------------------------------------------------------------------------------------------------------
class LeNet5(nn.Module):
    """LeNet-5, (N, 1, 28, 28) -> (N, 10) logits: 0.43 M weights, 98.6 % of them 1-bit. Keys and shapes are those of XNOR-Net-PyTorch."""

    def __init__(self, estimator="polynomial"):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.bn_conv1 = nn.BatchNorm2d(20, eps=1e-4, affine=False)
        self.relu_conv1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.bin_conv2 = BinConv2d(20, 50, 5, estimator=estimator)
        self.pool2 = nn.MaxPool2d(2)
        self.bin_ip1 = BinLinear(50 * 4 * 4, 500, norm_channels=50, estimator=estimator)
        self.ip2 = nn.Linear(500, 10)

    def forward(self, x):
        x = self.pool1(self.relu_conv1(self.bn_conv1(self.conv1(x))))
        x = self.pool2(self.bin_conv2(x))
        return self.ip2(self.bin_ip1(x))


MODELS = {"LeNet_5": LeNet5}


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv=None):
    parser = Parser(description="Binarized LeNet-5 on MNIST: train (the default), evaluate, or read the digits that move.")
    add_common_arguments(parser, list(MODELS), CLASSES, epochs=60, lr=0.003)
    add_engine_arguments(parser)
    parser.set_defaults(batch_size=128)
    return parser.parse_args(argv)


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args, train):
    from torchvision import datasets  # here, since importing it takes as long as all the rest

    images, labels = data.load(datasets.MNIST, args.data or HERE / "data", train, CLASSES, "L", 28)
    return images[: args.limit], labels[: args.limit]


def preprocess(images):
    """Return float32 (N, 1, 28, 28), standardised, from images of that shape with levels 0..255."""
    return data.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)  # a third faster


def to_images(crops):
    """Return uint8 (N, 1, 28, 28) that look like MNIST from a list of RGB or RGBA crops (H, W, 3 or 4) of any size; alpha is not asked."""
    return torch.from_numpy(np.stack([to_mnist(crop[..., :3]) for crop in crops])).unsqueeze(1)


def to_mnist(crop):
    """Return uint8 (28, 28): the digit of an RGB crop white on black, 20 pixels long, its centre of mass in the middle.

    Made as MNIST was (LeCun et al. 1998, section III-A), after the digit has been told from the ground behind it.
    """
    if (scale := LARGEST / max(crop.shape)) < 1:
        crop = resize(crop, scale, cv2.INTER_AREA)
    ink = ink_of(crop)
    strong = (ink > 0.4).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(strong)
    if count < 2:
        return np.zeros((28, 28), np.uint8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    digit = np.isin(regions, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max())).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(digit)
    near = cv2.dilate(digit, np.ones((3, 3), np.uint8), iterations=max(1, max(w, h) // 20))
    ink = (ink * near)[y : y + h, x : x + w]
    scale = 20 / max(w, h)
    ink = resize(ink, scale, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return centre(ink / ink.max())


def resize(image, scale, interpolation):
    """Return `image` (H, W, …) times `scale`, at least 1 x 1."""
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation)


def ink_of(crop):
    """Return float32 (H, W) in 0..1: how much each pixel of an RGB crop differs from the ground in the way the digit does.

    The ground's colour is the median of the border. The digit's is where the pixels that differ most lie, so light on dark, dark
    on light and coloured digits all come out bright.
    """
    crop = crop.astype(np.float32)
    h, w = crop.shape[:2]
    margin = max(1, min(h, w) // 12)
    border = np.ones((h, w), bool)
    border[margin : h - margin, margin : w - margin] = False
    away = crop - np.median(crop[border], axis=0)
    direction = (away * (away**2).sum(2, keepdims=True)).sum((0, 1))
    along = away @ (direction / max(np.linalg.norm(direction), 1e-6))
    low, high = np.percentile(along[border], 75), np.percentile(along, 98)
    return ((along - low) / max(high - low, 16)).clip(0, 1)  # 16 grey levels: fainter than that is noise


def centre(ink):
    """Return uint8 (28, 28) with `ink` (at most 20 x 20, 0..1) placed so that its centre of mass is in the middle."""
    h, w = ink.shape
    mass = max(ink.sum(), 1e-6)
    row, column = (ink.sum(1) @ np.arange(h)) / mass, (ink.sum(0) @ np.arange(w)) / mass
    top, left = np.clip([round(13.5 - row), round(13.5 - column)], 0, [28 - h, 28 - w])
    image = np.zeros((28, 28), np.uint8)
    image[top : top + h, left : left + w] = (255 * ink).round()
    return image


def augment(images, generator):
    """Return float32 images (N, 1, 28, 28), levels 0..255: turned, slanted, scaled and shifted, half of them as if cut from a clip."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(len(images), generator=generator)

    angle, scale, slant = uniform(-0.2, 0.2), uniform(0.88, 1.12), uniform(-0.2, 0.2)
    shift = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * 2 / 14  # up to 2 px
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([torch.stack([cos, slant - sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(torch.cat([turn, shift.unsqueeze(2)], 2), list(images.shape), align_corners=False)
    x = F.grid_sample(images.float(), grid, align_corners=False)
    # Pen width, contrast and remains of the ground vary in a clip more than on paper.
    clip, pen, strength = [uniform(*limits).view(-1, 1, 1, 1) for limits in ((0, 1), (-1, 1), (0, 50))]
    wider, thinner = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    drawn = x + torch.where(pen > 0, pen * (wider - x), -0.6 * pen * (thinner - x))
    ground = F.interpolate(torch.randn(len(x), 1, 10, 10, generator=generator), 28, mode="bilinear")
    drawn = (1.15 * drawn + strength * ground * (wider > 0)).clamp(0, 255)
    return torch.where(clip < 0.5, drawn, x)


# ---- Train, evaluate, classify ---------------------------------------------------------------------------------------
def train_epoch(model, step_model, images, labels, log, args, device, bin_op):
    """Pass once over `images`, in an order and with an augmentation that seed, epoch and step fix."""
    epoch = log.epoch + 1
    order = torch.randperm(len(images), generator=steps.generator(args.seed, epoch))
    batches = order[: len(order) // args.processes * args.processes].split(args.batch_size)
    model.train()
    for i in log.steps(len(batches), f"epoch {epoch}"):
        progress = (epoch - 1 + i / len(batches)) / args.epochs
        steps.set_lr(log.optimizer, args.lr * min(1, progress * 50) * (1 - progress))
        generator, batch = steps.generator(args.seed, epoch, i + 1, args.rank), batches[i][args.rank :: args.processes]
        x = preprocess(augment(images[batch], generator).to(device))
        log.optimizer.zero_grad(set_to_none=True)
        with bin_op.binarized():
            loss = F.cross_entropy(step_model(x), labels[batch].to(device))
            loss.backward()
        bin_op.updateBinaryGradWeight()
        log.optimizer.step()
        log.add(loss.detach(), len(batches[i]))


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
    """Return logits, float32 (N, 10), for a list of RGB crops; the caller holds the weights binarized."""
    return model(preprocess(to_images(crops).to(device))).float().cpu()


def load_fastmcd():
    """Return the detector's package: here, since only --video needs the native build."""
    import fastmcd

    return fastmcd


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model, args, device, bin_op):
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    args.rank, args.processes = steps.join_processes(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    step_model = steps.step_model(model, args)
    with Log(HERE / "models", args.arch, args, model, optimizer) as log:
        while log.epoch < args.epochs:
            train_epoch(model, step_model, images[kept], labels[kept], log, args, device, bin_op)
            _, accuracy = evaluate(model, images[held_out], labels[held_out], device, bin_op)
            log.end_epoch(len(kept), accuracy)
        log.load_best()
        _, accuracy = evaluate(model, *load_data(args, train=False), device, bin_op)
        log.finish(accuracy)
    return accuracy


def main(argv=None):
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    model = MODELS[args.arch]().to(device, memory_format=torch.channels_last)
    bin_op = BinOp(model, args.compile)
    names = args.fastMCD or args.multi_fastMCD or args.video
    if not (args.evaluate or args.export or names):
        if args.pretrained:
            checkpoint.load_into(model, args.pretrained, args.arch)
        return train(model, args, device, bin_op)
    model.eval()
    weights = HERE / "models" / f"{args.arch}.best.pth.tar"
    model = xnor.prepare(args, model, args.arch, weights, SHAPE, MEAN, STD, device)
    if args.evaluate:
        _, accuracy = evaluate(model, *load_data(args, train=False), device, bin_op)
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if names:
        with bin_op.binarized():
            return naming.run(args, lambda crops: classify(model, crops, device), CLASSES, {}, load_fastmcd, CALIBRATION[args.arch], CUT)


if __name__ == "__main__":
    run(main)
