"""Full-precision networks on CIFAR-10, to see what binarizing costs: train, evaluate, and name what the detector found.

    python3 main.py --classifier mobilenet_v2                    train; the weights go to state_dicts/mobilenet_v2.pt
    python3 main.py --classifier airbench --evaluate             accuracy of the weights in state_dicts/, which has airbench's
    python3 main.py --classifier airbench --video CLIP --save OUT
    python3 main.py --classifier airbench_clips --wild DIR       a teacher for networks for clips (docs/training.md)
"""
import argparse
import math
import sys
from argparse import Namespace
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
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torchvision import datasets  # noqa: E402
from tqdm import tqdm  # noqa: E402

from util.cli import Parser, add_common_arguments, add_precision_argument, add_teacher_argument, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.spec import OTHER, Spec  # noqa: E402
from util.train import checkpoint, data, predict, steps  # noqa: E402
from util.train.batches import Material, augmented_batches  # noqa: E402
from util.train.recipe import Recipe  # noqa: E402
from util.train.run import Files, Run, settings_of  # noqa: E402
from util.train.steps import Learner  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
OLD_STD = (0.2023, 0.1994, 0.2010)  # mean over the images of each image's own deviation, as older weights expect it
HELD_OUT = 2000  # training images that pick the epoch
# Arch -> (temperature, probability below which a name is unknown) of the weights in state_dicts/; benchmarks/unknown.py finds them.
CALIBRATION = {"airbench": (0.53, 0.52), "mobilenet_v2": (0.69, 0.46)}


def spec_of(name: str, std: tuple[float, ...]) -> Spec:
    """Return what a clip needs to know of the network `name`."""
    temperature, unknown_below = CALIBRATION.get(name, (1.0, 0.0))
    classes = CLASSES + ["person", OTHER] * (name in networks.FOR_CLIPS)
    return Spec(name, tuple(classes), (3, 32, 32), MEAN, std, "object", {"automobile": ("truck",)}, temperature, unknown_below)


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = Parser(script=__file__, description="Full-precision networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    add_common_arguments(parser, list(networks.ALL))
    same = {"dest": "arch", "choices": sorted(networks.ALL), "default": argparse.SUPPRESS}
    parser.add_argument("--classifier", metavar="ARCH", help="another word for --arch; its weights are state_dicts/ARCH.pt", **same)
    parser.add_argument("--old-std", action="store_true", help=f"standardise by {OLD_STD}, as some older weights expect it")
    text = "train a network for clips (--classifier …_clips) on these images, too: DIR/<class>/, DIR/person/, DIR/other/"
    parser.add_argument("--wild", type=Path, metavar="DIR", help=text)
    add_precision_argument(parser)
    parser.add_argument("--logits", type=Path, metavar="FILE", help="write its logits of the training images, which teach a binarized net")
    add_teacher_argument(parser)
    args = parser.parse_args(argv)
    trains = not (args.evaluate or args.logits or args.fastMCD or args.multi_fastMCD or args.video)
    for_clips = args.arch in networks.FOR_CLIPS
    if args.wild and not for_clips or trains and for_clips and not args.wild:
        parser.error("--wild DIR and a network for clips (--classifier …_clips) go together")
    if args.wild and args.teacher:
        parser.error("--teacher knows nothing of the images of --wild; leave one of them out")
    return args


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args: Namespace, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images (N, 3, 32, 32) and labels (N,)."""
    if data.own_classes(args.data, CLASSES):  # else the data set would be downloaded into it
        raise InputError(f"{args.data}: is no CIFAR-10, whose classes alone are learnt here; CIFAR_10/main.py --data learns others")
    images, labels = data.load(datasets.CIFAR10, args.data or HERE.parent / "CIFAR_10" / "data", train, CLASSES, "RGB", 32)
    return data.subset(images, labels, args.limit)


def preprocess(images: torch.Tensor, std: tuple[float, ...]) -> torch.Tensor:
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, std).contiguous(memory_format=torch.channels_last)


def crop_and_mirror(images: torch.Tensor, indices: torch.Tensor, epoch: int, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 images (N, 3, 32, 32) cut at random out of themselves with 4 black pixels around, half of them mirrored."""
    # Moved by at most 4 pixels, the middle never shows what random_shift mirrors in beyond the black.
    moved = data.random_shift(F.pad(images, [4] * 4), 4, generator)[..., 4:-4, 4:-4]
    return data.random_mirror(moved, generator)


def shift_and_alternate(images: torch.Tensor, indices: torch.Tensor, epoch: int, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 images (N, 3, 32, 32) moved by up to 2 pixels, mirrored in every other epoch, so that two epochs show both sides."""
    mirrored = (indices + epoch) % 2 == 0
    return data.random_shift(torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images), 2, generator)


# ---- Recipes ---------------------------------------------------------------------------------------------------------
def warm_cosine(progress: float) -> float:
    """Return the share of the highest learning rate after a share `progress` of all steps: up in 30 % of them, then half a cosine."""
    share = progress / 0.3 if progress < 0.3 else (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2
    return 1e-6 + (1 - 1e-6) * share


def triangle(progress: float, end: float = 0.07) -> float:
    """Return the share of the highest learning rate: straight from 0.2 up to 1 at 23 % of all steps, then down to `end`."""
    return 0.2 + 0.8 * progress / 0.23 if progress < 0.23 else 1 - (1 - end) * (progress - 0.23) / 0.77


def plain_sgd(model: nn.Module, lr: float, weight_decay: float = 1e-2) -> torch.optim.SGD:
    """Return SGD with Nesterov momentum."""
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)


def airbench_sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    """Return SGD whose batch norm biases learn 64 times as fast and decay no faster for it."""
    biases = [p for name, p in model.named_parameters() if "norm" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "norm" not in name and p.requires_grad]
    groups = [{"params": others, "weight_decay": 1.33e-3}, {"params": biases, "lr_scale": 64, "weight_decay": 1.33e-3 / 64}]
    return torch.optim.SGD(groups, lr, momentum=0.85, nesterov=True)


@torch.no_grad()
def lookahead(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Pull the weights back to their running mean, the harder the later (Lookahead: Zhang et al. 2019, arXiv:1907.08610)."""
    pull = 1 if progress == 1 else 0.95**5 * progress**3
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        mean = optimizer.state[parameter].setdefault("mean", parameter.clone())
        parameter.copy_(mean.lerp_(parameter, 1 - pull))


PUBLISHED = Recipe(100, 1e-2, 256, warm_cosine, plain_sgd, augment=crop_and_mirror)
RECIPES = {
    "airbench": Recipe(18, 1.5, 1024, triangle, airbench_sgd, augment=shift_and_alternate, smoothing=0.2, lookahead=5),
    "airbench_clips": Recipe(28, 1.5, 1024, triangle, airbench_sgd, ((0.5, 24), (1, 32)), smoothing=0.1, lookahead=5),
    "mobilenet_v2": Recipe(
        16, 0.1, 128, partial(triangle, end=0), partial(plain_sgd, weight_decay=5e-4), ((0.5, 16), (0.8, 24), (1, 32)),
        augment=shift_and_alternate,
    ),
}  # fmt: skip


def recipe_for(args: Namespace) -> Recipe:
    """Return the network's recipe, with what the flags change."""
    return RECIPES.get(args.arch, PUBLISHED).with_flags(args)


# ---- Train -----------------------------------------------------------------------------------------------------------
def material_for(args: Namespace, recipe: Recipe, machine: steps.Machine, spec: Spec) -> Material:
    """Return CIFAR-10's training images, alone or beside those of --wild."""
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    validation, sample = (images[held_out], labels[held_out]), images[kept[::10]]
    teacher = steps.cached_teacher(args.teacher, len(images), len(CLASSES), kept, machine.device) if args.teacher else None
    loss = steps.loss_for(teacher, recipe.smoothing)
    if args.wild:
        from util.train import wild

        mixture = wild.WildMixture(images[kept], labels[kept], args.wild, spec, machine.share(recipe.batch_size), machine.device)
        return Material(mixture.batch_of, len(kept), loss, mixture.validation(*validation), sample)
    return Material(augmented_batches(images[kept], labels[kept], recipe), len(kept), loss, validation, sample, teacher)


def train_epoch(learner: Learner, material: Material, std: tuple[float, ...], training: Run) -> None:
    """Take the steps that pass once over the material, in an order that seed and epoch fix."""
    recipe, machine, optimizer, teacher = training.recipe, learner.machine, learner.optimizer, material.teacher
    learner.model.train()
    for batch in training.batches(material.count):
        torch.manual_seed(batch.generator().initial_seed())  # dropout's
        x, y, indices = (part.to(machine.device) for part in material.batch_of(batch))
        x = preprocess(x, std)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16):
            logits = learner.forward(data.resized(x, recipe.size(batch.epoch)))
        loss = material.loss(logits.float(), y, teacher.logits(x, indices) if teacher else None)
        loss.backward()
        optimizer.step()
        taken, total = (batch.epoch - 1) * batch.steps + batch.step + 1, batch.epochs * batch.steps  # steps, with this one
        if recipe.lookahead and (taken % recipe.lookahead == 0 or taken == total):
            lookahead(optimizer, taken / total)
        training.add(loss.detach(), batch.size)


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with the weights of convolutions and linear layers in half precision, which is half the file."""
    return {key: value.half() if value.dim() > 1 else value for key, value in state.items()}


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model: nn.Module, args: Namespace, spec: Spec) -> float:
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    recipe = recipe_for(args)
    files = Files(networks.STATE_DICTS, args.name or args.arch, best="{}.pt")
    if files.best.exists() and math.isnan(checkpoint.load(files.best)["best_acc"]):  # no score: main.py didn't write it
        raise InputError(f"{files.best}: holds weights from elsewhere, which a training would replace; move the file away first")
    machine = steps.machine_for(args, args.bf16)
    material = material_for(args, recipe, machine, spec)
    if isinstance(model, networks.Airbench) and not args.pretrained:
        model.fit_whitening(preprocess(material.sample.to(machine.device), spec.std))
    steps.keep_memory()
    learner, settings = Learner(model, recipe, machine), settings_of(args, args.arch, recipe)
    with Run(files, recipe, learner, settings, data.fingerprint(*material.validation), args.resume) as training:
        while not training.over:
            train_epoch(learner, material, spec.std, training)
            training.end_epoch(predict.evaluate(model, spec, *material.validation), model)
        state = halved(training.best.state_dict)
        model.load_state_dict(state)
        accuracy = predict.evaluate(model, spec, *load_data(args, train=False), len(CLASSES))  # of a network for clips, ten
        training.finish(accuracy, state, spec)
    return accuracy


@torch.no_grad()
def write_logits(model: nn.Module, args: Namespace, std: tuple[float, ...], device: torch.device) -> float:
    """Write the mean of the logits of each training image and its mirror image as "logits" (N, 10), for CIFAR_10's --teacher.

    Returns the share of the training images that they name rightly.
    """
    bf16 = steps.fast_bf16(device) if args.bf16 is None else args.bf16
    images, labels = load_data(args, train=True)
    model.eval()
    parts = []
    for x in tqdm(images.split(250), "logits", unit="batch", leave=False, disable=None):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            both = [model(preprocess(view.to(device), std)) for view in (x, x.flip(3))]
        parts.append((both[0].float() + both[1].float()).cpu() / 2)
    logits = torch.cat(parts)
    args.logits.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.logits) as temporary:
        save_file({"logits": logits.half()}, temporary)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    print(f"written: {args.logits} ({100 * accuracy:.2f} % of the training images right)")
    return accuracy


def main(argv: list[str] | None = None) -> float | None:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    device, spec = steps.device_of(args), spec_of(args.arch, OLD_STD if args.old_std else STD)
    names = args.fastMCD or args.multi_fastMCD or args.video
    if args.pretrained or args.evaluate or args.logits or names:
        path = args.pretrained or (networks.weights_path(args.name) if args.name else None)
        model = networks.load(args.arch, path)
        path = path or networks.weights_path(args.arch)
        spec = checkpoint.spec_of(checkpoint.load(path), path, spec)  # what the file says goes before the flags
    else:
        model = networks.build_for(args.arch, {})
    model.to(device, memory_format=torch.channels_last)
    if args.evaluate:
        accuracy = predict.accuracy(predict.TorchNetwork(model, spec), *load_data(args, train=False), len(CLASSES))
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if args.logits:
        return write_logits(model, args, spec.std, device)
    if not names:
        return train(model, args, spec)
    from util import watch  # here: who trains or evaluates needs nothing of it

    return watch.run(args, predict.TorchNetwork(model, spec))


if __name__ == "__main__":
    run(main)
