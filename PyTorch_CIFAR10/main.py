"""Full-precision networks on CIFAR-10, to see what binarizing costs: train, evaluate, and name what the detector found.

    python3 main.py --classifier mobilenet_v2                    train; the weights go to state_dicts/mobilenet_v2.pt
    python3 main.py --classifier mobilenet_v2 --evaluate         accuracy of the weights in state_dicts/
    python3 main.py --classifier vgg11_bn --video CLIP --save OUT
"""
import argparse
import math
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cv2  # noqa: E402
import networks  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torchvision import datasets  # noqa: E402
from tqdm import tqdm  # noqa: E402

from util import checkpoint, data, naming, training  # noqa: E402
from util.cli import InputError, Parser, add_common_arguments, run  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
ALSO_RIGHT = {1: {9}}  # asked for automobiles, a truck is right too
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
OLD_STD = (0.2023, 0.1994, 0.2010)  # mean over the images of each image's own deviation, as older weights expect it
HELD_OUT = 2000  # training images that pick the epoch
MOMENTUM, WEIGHT_DECAY, WARM_UP, LAST_LR = 0.9, 1e-2, 0.3, 1e-8  # of the published training; WARM_UP is its share of the steps


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv=None):
    parser = Parser(description="Full-precision networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    add_common_arguments(parser, list(networks.NETWORKS), CLASSES, epochs=100, lr=1e-2)
    parser.set_defaults(batch_size=256)
    same = {"dest": "arch", "choices": sorted(networks.NETWORKS), "default": argparse.SUPPRESS}
    parser.add_argument("--classifier", metavar="ARCH", help="another word for --arch; its weights are state_dicts/ARCH.pt", **same)
    parser.add_argument("--old-std", action="store_true", help=f"standardise by {OLD_STD}, as some older weights expect it")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: faster where the processor has it, much slower elsewhere")
    return parser.parse_args(argv)


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args, train):
    images, labels = data.load(datasets.CIFAR10, args.data or HERE.parent / "CIFAR_10" / "data", train, CLASSES, "RGB", 32)
    return images[: args.limit], labels[: args.limit]


def preprocess(images, std):
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, std).contiguous(memory_format=torch.channels_last)


def random_crop(images, generator):
    """Return uint8 images (N, 3, 32, 32) cut at random out of themselves with 4 black pixels around."""
    # Moved by at most 4 pixels, the middle never shows what random_shift mirrors in beyond the black.
    return data.random_shift(F.pad(images, [4] * 4), 4, generator)[..., 4:-4, 4:-4]


def to_images(crops):
    """Return uint8 (N, 3, 32, 32) from a list of RGB crops (H, W, 3) of any size."""
    small = [cv2.resize(crop, (32, 32), interpolation=cv2.INTER_AREA) for crop in crops]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


# ---- Train, evaluate, classify ---------------------------------------------------------------------------------------
def lr_at(progress, highest):
    """Return the learning rate after a share `progress` of all steps: a straight rise, then half a cosine."""
    if progress < WARM_UP:
        return LAST_LR + (highest - LAST_LR) * progress / WARM_UP
    return LAST_LR + (highest - LAST_LR) * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def train_epoch(model, step_model, images, labels, optimizer, args, epoch, device):
    """Return the mean loss after one pass over `images` in an order and with an augmentation that `seed` and `epoch` fix."""
    generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    batches = order.split(args.batch_size)
    model.train()
    torch.manual_seed(1000 * args.seed + epoch)  # dropout, so that a resumed training goes on as if never cut off
    total = 0.0
    for i, batch in enumerate(tqdm(batches, f"epoch {epoch}", unit="batch", leave=False, disable=None)):
        training.set_lr(optimizer, lr_at((epoch - 1 + i / len(batches)) / args.epochs, args.lr))
        x = data.random_mirror(random_crop(images[batch], generator), generator)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            loss = F.cross_entropy(step_model(preprocess(x.to(device), args.std)), labels[batch].to(device))
        loss.backward()
        optimizer.step()
        total += training.finite(loss.item(), epoch, i) * len(batch)
    return total / len(images)


@torch.no_grad()
def evaluate(model, images, labels, device, std):
    """Return (mean loss, share of right answers in [0, 1]); changes nothing."""
    model.eval()
    loss = right = 0.0
    batches = zip(images.split(250), labels.to(device).split(250), strict=True)
    for x, y in tqdm(batches, "evaluating", math.ceil(len(images) / 250), unit="batch", leave=False, disable=None):
        logits = model(preprocess(x.to(device), std))
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        right += (logits.argmax(1) == y).sum().item()
    return loss / len(images), right / len(images)


@torch.no_grad()
def classify(model, crops, device, std):
    """Return (labels, probabilities), both (N,), for a list of RGB crops."""
    probabilities = model(preprocess(to_images(crops).to(device), std)).softmax(1)
    best = probabilities.max(1)
    return best.indices.tolist(), best.values.tolist()


def make_detector(width, height):
    """Return a function from a BGR frame, uint8 (height, width, 3), to what moves in it (fastmcd.Result)."""
    import fastmcd  # here, since only --video needs the native build

    detector = fastmcd.Detector(width, height)
    return lambda frame: detector.detect(fastmcd.grey(frame))


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model, args, device):
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    target = networks.weights_path(args.arch)
    if target.exists() and math.isnan(checkpoint.load(target)["best_acc"]):  # no score: main.py didn't write it
        raise InputError(f"{target}: holds weights from elsewhere, which a training would replace; move the file away first")
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    optimizer = torch.optim.SGD(model.parameters(), args.lr, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    log = training.Log(networks.STATE_DICTS, args, model, optimizer)
    log.best_path = target
    step_model = torch.compile(model, dynamic=False) if args.compile else model
    for epoch in range(log.epoch + 1, args.epochs + 1):
        start = time.perf_counter()
        loss = train_epoch(model, step_model, images[kept], labels[kept], optimizer, args, epoch, device)
        _, accuracy = evaluate(model, images[held_out], labels[held_out], device, args.std)
        log.end_epoch(epoch, loss, accuracy, time.perf_counter() - start)
    log.load_best()
    _, accuracy = evaluate(model, *load_data(args, train=False), device, args.std)
    log.finish(accuracy)
    return accuracy


def main(argv=None):
    args = parse_args(argv)
    args.std = OLD_STD if args.old_std else STD
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    names = args.fastMCD or args.multi_fastMCD or args.video
    known = args.pretrained or args.evaluate or names
    model = networks.load(args.arch, args.pretrained) if known else networks.NETWORKS[args.arch]()
    model.to(device, memory_format=torch.channels_last)
    if args.evaluate:
        _, accuracy = evaluate(model, *load_data(args, train=False), device, args.std)
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if not names:
        return train(model, args, device)
    model.eval()
    return naming.run(args, lambda crops: classify(model, crops, device, args.std), make_detector, CLASSES, ALSO_RIGHT)


if __name__ == "__main__":
    run(main)
