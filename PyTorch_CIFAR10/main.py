"""Full-precision networks on CIFAR-10, to see what binarizing costs: train, evaluate, and name what the detector found.

    python3 main.py --classifier mobilenet_v2                    train; the weights go to state_dicts/mobilenet_v2.pt
    python3 main.py --classifier airbench --evaluate             accuracy of the weights in state_dicts/, which has airbench's
    python3 main.py --classifier airbench --video CLIP --save OUT
"""
import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import networks  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torchvision import datasets  # noqa: E402
from tqdm import tqdm  # noqa: E402

from util.cli import InputError, Parser, add_common_arguments, add_teacher_argument, run  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.spec import Spec  # noqa: E402
from util.train import checkpoint, data, predict, steps  # noqa: E402
from util.train.run import Log  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
OLD_STD = (0.2023, 0.1994, 0.2010)  # mean over the images of each image's own deviation, as older weights expect it
HELD_OUT = 2000  # training images that pick the epoch
# Arch -> (temperature, probability below which a name is unknown) of the weights in state_dicts/; benchmarks/unknown.py finds them.
CALIBRATION = {"airbench": (0.53, 0.52), "mobilenet_v2": (0.69, 0.46)}


def spec_of(name, std):
    """Return what a clip needs to know of the network `name`."""
    temperature, unknown_below = CALIBRATION.get(name, (1.0, 0.0))
    return Spec(name, tuple(CLASSES), (3, 32, 32), MEAN, std, "object", {"automobile": ("truck",)}, temperature, unknown_below)


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv=None):
    parser = Parser(script=__file__, description="Full-precision networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    add_common_arguments(parser, list(networks.NETWORKS), CLASSES, PUBLISHED.epochs, PUBLISHED.lr)
    parser.set_defaults(batch_size=PUBLISHED.batch_size)
    same = {"dest": "arch", "choices": sorted(networks.NETWORKS), "default": argparse.SUPPRESS}
    parser.add_argument("--classifier", metavar="ARCH", help="another word for --arch; its weights are state_dicts/ARCH.pt", **same)
    parser.add_argument("--old-std", action="store_true", help=f"standardise by {OLD_STD}, as some older weights expect it")
    faster = "train in bfloat16 (default: where the processor has fast instructions for it)"
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None, help=faster)
    parser.add_argument("--logits", type=Path, metavar="FILE", help="write its answers to the training images, which teach a binarized net")
    add_teacher_argument(parser)
    recipe = RECIPES.get(parser.parse_args(argv).arch, PUBLISHED)
    parser.set_defaults(epochs=recipe.epochs, lr=recipe.lr, batch_size=recipe.batch_size)
    return parser.parse_args(argv)


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args, train):
    images, labels = data.load(datasets.CIFAR10, args.data or HERE.parent / "CIFAR_10" / "data", train, CLASSES, "RGB", 32)
    return images[: args.limit], labels[: args.limit]


def preprocess(images, std):
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, std).contiguous(memory_format=torch.channels_last)


def crop_and_mirror(images, indices, epoch, generator):
    """Return uint8 images (N, 3, 32, 32) cut at random out of themselves with 4 black pixels around, half of them mirrored."""
    # Moved by at most 4 pixels, the middle never shows what random_shift mirrors in beyond the black.
    moved = data.random_shift(F.pad(images, [4] * 4), 4, generator)[..., 4:-4, 4:-4]
    return data.random_mirror(moved, generator)


def shift_and_alternate(images, indices, epoch, generator):
    """Return uint8 images (N, 3, 32, 32) moved by up to 2 pixels, mirrored in every other epoch, so that two epochs show both sides."""
    mirrored = (indices + epoch) % 2 == 0
    return data.random_shift(torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images), 2, generator)


# ---- Recipes ---------------------------------------------------------------------------------------------------------
def warm_cosine(progress):
    """Return the share of the highest learning rate after a share `progress` of all steps: up in 30 % of them, then half a cosine."""
    share = progress / 0.3 if progress < 0.3 else (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2
    return 1e-6 + (1 - 1e-6) * share


def triangle(progress, end=0.07):
    """Return the share of the highest learning rate: straight from 0.2 up to 1 at 23 % of all steps, then down to `end`."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 1 - (1 - end) * (progress - 0.23) / 0.77


def plain_sgd(model, lr, weight_decay=1e-2):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)


def airbench_sgd(model, lr):
    """Return SGD whose batch norm biases learn 64 times as fast and decay no faster for it."""
    biases = [p for name, p in model.named_parameters() if "norm" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "norm" not in name and p.requires_grad]
    groups = [{"params": others, "weight_decay": 1.33e-3}, {"params": biases, "lr_scale": 64, "weight_decay": 1.33e-3 / 64}]
    return torch.optim.SGD(groups, lr, momentum=0.85, nesterov=True)


@torch.no_grad()
def look_back(optimizer, progress):
    """Pull the weights back to their running mean, the harder the later (Lookahead: Zhang et al. 2019, arXiv:1907.08610)."""
    pull = 1 if progress == 1 else 0.95**5 * progress**3
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        mean = optimizer.state[parameter].setdefault("mean", parameter.clone())
        parameter.copy_(mean.lerp_(parameter, 1 - pull))


@dataclass
class Recipe:
    """How a network is trained; `lr` is the highest learning rate, `schedule` its share at a time, `look_back` every how many steps."""

    epochs: int
    lr: float
    batch_size: int
    schedule: Callable
    optimizer: Callable
    augment: Callable
    smoothing: float = 0.0  # of the labels
    look_back: int = 0
    sizes: tuple = ((1, 32),)  # of the images until that share of the epochs


PUBLISHED = Recipe(100, 1e-2, 256, warm_cosine, plain_sgd, crop_and_mirror)
RECIPES = {
    "airbench": Recipe(18, 1.5, 1024, triangle, airbench_sgd, shift_and_alternate, smoothing=0.2, look_back=5),
    "mobilenet_v2": Recipe(
        16, 0.1, 128, partial(triangle, end=0), partial(plain_sgd, weight_decay=5e-4), shift_and_alternate,
        sizes=((0.5, 16), (0.8, 24), (1, 32)),
    ),
}


# ---- Train, evaluate -------------------------------------------------------------------------------------------------
def train_epoch(model, step_model, images, labels, taught, log, args, device):
    """Pass once over `images`, in an order and with an augmentation that seed, epoch and step fix."""
    recipe, epoch = RECIPES.get(args.arch, PUBLISHED), log.epoch + 1
    order = torch.randperm(len(images), generator=steps.generator(args.seed, epoch))
    batches = order[: len(order) // args.processes * args.processes].split(args.batch_size)
    size = steps.image_size(recipe.sizes, epoch / args.epochs)
    model.train()
    for i in log.steps(len(batches), f"epoch {epoch} at {size} px"):
        step, total = (epoch - 1) * len(batches) + i, args.epochs * len(batches)
        steps.set_lr(log.optimizer, args.lr * recipe.schedule(step / total))
        generator, batch = steps.generator(args.seed, epoch, i + 1, args.rank), batches[i][args.rank :: args.processes]
        torch.manual_seed(generator.initial_seed())  # dropout's
        x = recipe.augment(images[batch], batch, epoch, generator)
        log.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            logits = step_model(data.resized(preprocess(x.to(device), args.std), size))
        answers = None if taught is None else taught[batch].to(device)
        loss = steps.loss_of(logits.float(), labels[batch].to(device), answers, recipe.smoothing)
        loss.backward()
        log.optimizer.step()
        if recipe.look_back and ((step + 1) % recipe.look_back == 0 or step + 1 == total):
            look_back(log.optimizer, (step + 1) / total)
        log.add(loss.detach(), len(batches[i]))


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



def halved(state):
    """Return a state dict with the weights of convolutions and linear layers in half precision, which is half the file."""
    return {key: value.half() if value.dim() > 1 else value for key, value in state.items()}


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model, args, device):
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    target = networks.weights_path(args.arch)
    if target.exists() and math.isnan(checkpoint.load(target)["best_acc"]):  # no score: main.py didn't write it
        raise InputError(f"{target}: holds weights from elsewhere, which a training would replace; move the file away first")
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    if args.arch == "airbench" and not args.pretrained:
        model.fit_whitening(preprocess(images[kept[::10]].to(device), args.std))
    taught = steps.load_answers(args.teacher, len(images), len(CLASSES))[kept] if args.teacher else None
    steps.keep_memory()
    args.rank, args.processes = steps.join_processes(device)
    optimizer = RECIPES.get(args.arch, PUBLISHED).optimizer(model, args.lr)
    step_model = steps.step_model(model, args)
    with Log(networks.STATE_DICTS, args.arch, args, model, optimizer) as log:
        log.best_path = target
        while log.epoch < args.epochs:
            train_epoch(model, step_model, images[kept], labels[kept], taught, log, args, device)
            _, accuracy = evaluate(model, images[held_out], labels[held_out], device, args.std)
            log.end_epoch(len(kept), accuracy)
        log.best["state_dict"] = halved(log.best["state_dict"])
        log.load_best()
        _, accuracy = evaluate(model, *load_data(args, train=False), device, args.std)
        log.finish(accuracy)
    return accuracy


@torch.no_grad()
def write_logits(model, args, device):
    """Write what the network says of each training image and its mirror image, averaged, as "logits" (N, 10): CIFAR_10's --teacher."""
    images, labels = load_data(args, train=True)
    model.eval()
    parts = []
    for x in tqdm(images.split(250), "logits", unit="batch", leave=False, disable=None):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            both = [model(preprocess(view.to(device), args.std)) for view in (x, x.flip(3))]
        parts.append((both[0].float() + both[1].float()).cpu() / 2)
    logits = torch.cat(parts)
    args.logits.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.logits) as temporary:
        save_file({"logits": logits.half()}, temporary)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    print(f"written: {args.logits} ({100 * accuracy:.2f} % of the training images right)")
    return accuracy


def main(argv=None):
    args = parse_args(argv)
    args.std = OLD_STD if args.old_std else STD
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    args.bf16 = steps.fast_bf16(device) if args.bf16 is None else args.bf16
    names = args.fastMCD or args.multi_fastMCD or args.video
    known = args.pretrained or args.evaluate or args.logits or names
    model = networks.load(args.arch, args.pretrained) if known else networks.NETWORKS[args.arch]()
    model.to(device, memory_format=torch.channels_last)
    if args.evaluate:
        accuracy = predict.accuracy(predict.TorchNetwork(model, spec_of(args.arch, args.std)), *load_data(args, train=False))
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if args.logits:
        return write_logits(model, args, device)
    if not names:
        return train(model, args, device)
    from util import watch  # here: who trains or evaluates needs nothing of it

    return watch.run(args, predict.TorchNetwork(model, spec_of(args.arch, args.std)))


if __name__ == "__main__":
    run(main)
