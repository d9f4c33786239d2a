"""Binarized networks on CIFAR-10: train, evaluate, and name what the detector found.

    python3 main.py --evaluate                                   accuracy of the weights in models/
    python3 main.py --video CLIP --save OUT                      detect what moves in a clip and name it
    python3 main.py --multi_fastMCD RESULTS --label automobile   name the regions that the fastMCD program wrote
    python3 main.py                                              train
"""
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import update_bn  # noqa: E402

from util.binop import BinOp  # noqa: E402
from util.cli import (  # noqa: E402
    Parser,
    add_common_arguments,
    add_cpu_training_arguments,
    add_engine_arguments,
    add_precision_argument,
    add_teacher_argument,
    run,
)  # fmt: skip
from util.errors import InputError  # noqa: E402
from util.layers import BinConv2d, anneal_sign, freeze_batch_norm  # noqa: E402
from util.spec import Spec  # noqa: E402
from util.train import checkpoint, data, predict, steps  # noqa: E402
from util.train.batches import Material, augmented_batches, generator  # noqa: E402
from util.train.recipe import Recipe  # noqa: E402
from util.train.run import Files, Run, settings_of  # noqa: E402
from util.train.steps import Learner  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CLIP_CLASSES = [*CLASSES, "person", "other"]  # of a network for clips; what it calls other is unknown
# Of networks for clips: how often a class is met there, 1 being as often as it is learnt; chosen on clips (docs/experiments-names.md).
PRIOR = {
    "automobile": 11.0, "truck": 6.0, "person": 4.0, "ship": 2.5, "bird": 1.6, "dog": 1.6, "horse": 1.6,
    "airplane": 0.33, "cat": 0.33, "deer": 0.33, "frog": 0.33, "other": 0.55,
}  # fmt: skip
# Of networks for clips, which see one box at a time, squeezed into a square: mean and standard deviation of log(height / width) of
# whole things' boxes, and of log(own heights per second). Of animals there is nothing to tell; other is mostly ground, which lies flat.
ASPECTS = {
    "person": (0.8, 0.5), "automobile": (-0.4, 0.5), "truck": (-0.3, 0.5), "airplane": (-0.6, 0.5), "ship": (-0.3, 0.6),
    "other": (-0.2, 0.7),
}  # fmt: skip
SPEEDS = {
    "person": (-0.2, 0.6), "automobile": (0.5, 0.9), "truck": (0.5, 0.9), "airplane": (0.5, 0.9), "ship": (0.0, 0.9), "other": (0.6, 1.2),
}  # fmt: skip
KINDS = {
    "vehicle": ("airplane", "automobile", "ship", "truck"), "animal": ("bird", "cat", "deer", "dog", "frog", "horse"),
    "person": ("person",),
}  # fmt: skip
SHAPE = (3, 32, 32)  # channels, height, width
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
HELD_OUT = 2000  # training images that pick the epoch
RECALIBRATE_BY = 16  # one in so many training images recalibrates batch norm
# Arch -> (temperature, probability below which a name is unknown) of the weights in models/; benchmarks/unknown.py finds them.
CALIBRATION = {"vgg": (0.49, 0.46), "nin": (0.67, 0.39), "nin_bwn": (0.57, 0.45), "resnet20": (0.63, 0.39)}
CLIP_CALIBRATION = {"vgg_clips": (0.82, 0.35), "resnet20_clips": (0.9, 0.32)}  # of networks for clips, found by benchmarks/names.py


# ---- Models ----------------------------------------------------------------------------------------------------------
class NIN(nn.Module):
    """Network in Network, (N, 3, 32, 32) -> (N, 10) logits >= 0: 0.97 M weights, 98 % of them 1-bit; 222 M multiply-adds.

    Keys and shapes are those of XNOR-Net-PyTorch. Two things differ, neither of which changes what a checkpoint computes: dropout
    is 0 by default (0.5 there; too much for short trainings), and the last pooling takes any size, so that training can use smaller images.
    """

    def __init__(self, dropout=0.0, estimator="wide", classes=10):
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
            nn.Conv2d(192, classes, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.05)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.xnor(x).flatten(1)


class Residual(nn.Module):
    """(N, C, H, W) -> (N, C', H', W'): a 3x3 binarized convolution plus what goes past it (Bi-Real Net, arXiv:1808.00278).

    Past it goes the input, averaged over 2x2 pixels where the stride is 2, and once more beside itself where C' = 2 C.
    """

    def __init__(self, in_channels, out_channels, stride=1, estimator="polynomial"):
        super().__init__()
        self.block = BinConv2d(in_channels, out_channels, 3, stride, 1, estimator=estimator, activation=nn.PReLU(out_channels))
        nn.init.normal_(self.block.conv.weight, 0, (9 * in_channels) ** -0.5)  # sums of +-alpha with a deviation near 1
        nn.init.zeros_(self.block.conv.bias)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.doubled = out_channels == 2 * in_channels

    def forward(self, x):
        past = self.pool(x)
        return self.block(x) + (torch.cat([past, past], 1) if self.doubled else past)


class VGG(nn.Module):
    """A VGG-like network, (N, 3, 32, 32) -> (N, 10) logits: 4.7 M 1-bit weights, 192 M multiply-adds, of which 98 % are binary.

    VGG-Small's widths with half its arithmetic: the image is pooled before the first binarized layer.
    """

    def __init__(self, estimator="polynomial", classes=10):
        super().__init__()
        widths = [(128, 128), (128, 128), None, (128, 256), (256, 256), None, (256, 512), (512, 512)]
        self.features = nn.Sequential(
            nn.Conv2d(3, 128, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(128),
            *(Residual(*pair, estimator=estimator) if pair else nn.MaxPool2d(2) for pair in widths),
            nn.BatchNorm2d(512),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class ResNet20(nn.Module):
    """ResNet-20 with a shortcut past every layer, (N, 3, 32, 32) -> (N, 10) logits: 0.27 M 1-bit weights, 41 M multiply-adds."""

    def __init__(self, estimator="polynomial", classes=10):
        super().__init__()
        widths = [16] * 7 + [32] * 6 + [64] * 6
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            *(Residual(a, b, stride=b // a, estimator=estimator) for a, b in pairwise(widths)),
            nn.BatchNorm2d(64),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(64, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


CLIPS = "_clips"  # ends the names of networks for clips
NETWORKS = {"nin": NIN, "vgg": VGG, "resnet20": ResNet20}
NETWORKS |= {f"{arch}{CLIPS}": partial(model, classes=len(CLIP_CLASSES)) for arch, model in NETWORKS.items()}
MODELS = NETWORKS | {f"{arch}_bwn": partial(model, estimator="none") for arch, model in NETWORKS.items()}  # activations stay floats
SMALL_FIRST = ((0.4, 16), (0.75, 24), (1, 32))  # until which share of the training images have how many pixels


def fast_adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return Adam; on a GPU its learning rate is a tensor, where a CUDA graph reads it."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    lr = torch.tensor(lr, device=device) if on_gpu else lr
    return torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99), fused=True, capturable=on_gpu)


RECIPES = {
    "nin": Recipe(60, 0.006, 128, optimizer=fast_adam, sizes=SMALL_FIRST, anneal_until=0.6, freeze_bn_from=0.93),
    "nin_bwn": Recipe(64, 0.004, 128, optimizer=fast_adam, sizes=SMALL_FIRST),
    "vgg": Recipe(50, 0.005, 128, optimizer=fast_adam, sizes=SMALL_FIRST),
    "resnet20": Recipe(50, 0.005, 128, optimizer=fast_adam, sizes=((0.5, 24), (1, 32))),
} | {name: Recipe(32, 0.004, 128, optimizer=fast_adam) for name in NETWORKS if name.endswith(CLIPS)}
# What differs on a GPU, where an epoch takes a second and small images save little of it.
ON_GPU = {"batch_size": 192, "sizes": ((1, 32),)}
RECIPES_ON_GPU = {"nin": ON_GPU | {"epochs": 322}, "vgg": ON_GPU | {"epochs": 355, "lr": 0.006, "shift": 4, "cutmix": 0.5}}


def spec_of(name: str) -> Spec:
    """Return what a clip needs to know of the network `name`."""
    temperature, unknown_below = {**CALIBRATION, **CLIP_CALIBRATION}.get(name, (1.0, 0.0))
    also_right = {"automobile": ("truck",)}
    if CLIPS in name:  # learnt from crops with what lies around the object, from small ones, and what is no object
        more = {"detector": {"min_crop": 16, "min_score": 0, "persistence": 1, "min_area": 0.001}, "prior": PRIOR, "aspects": ASPECTS,
                "speeds": SPEEDS, "kinds": KINDS}  # fmt: skip
        return Spec(name, tuple(CLIP_CLASSES), SHAPE, MEAN, STD, "dimmed", also_right, temperature, unknown_below, **more)
    return Spec(name, tuple(CLASSES), SHAPE, MEAN, STD, "object", also_right, temperature, unknown_below)


SPECS = {name: spec_of(name) for name in MODELS}


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = Parser(description="Binarized networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    default = f"nin; vgg{CLIPS} with --video without --pretrained and --bwn, and with --data of other classes than the data set's"
    add_common_arguments(parser, list(NETWORKS), default)
    add_engine_arguments(parser)
    text = "train a network for clips (--arch …_clips) on these images, too: DIR/<class>/, DIR/person/, DIR/other/"
    parser.add_argument("--wild", type=Path, metavar="DIR", help=text)
    text = "keep a mean of the weights: this share of the trained ones, the rest of --pretrained's, some of which training forgets"
    parser.add_argument("--blend", type=float, metavar="SHARE", help=text)
    parser.add_argument("--bwn", action="store_true", help="binary weights only: activations stay floats")
    more = " (.safetensors), or networks of PyTorch_CIFAR10/state_dicts or of this script, asked in each step: of several, their mean"
    add_teacher_argument(parser, more, nargs="+")
    add_precision_argument(parser)
    add_cpu_training_arguments(parser)
    parser.set_defaults(arch=None)
    args = parser.parse_args(argv)
    args.classes = data.own_classes(args.data, CLASSES)
    for_clips = args.video and not (args.pretrained or args.bwn)
    args.arch = args.arch or (f"vgg{CLIPS}" if for_clips or args.classes else "nin")
    if args.wild and CLIPS not in args.arch:
        parser.error(f"--wild goes with a network for clips, such as --arch vgg{CLIPS}")
    if args.blend is not None and not (0 < args.blend < 1 and args.pretrained):
        parser.error(f"--blend {args.blend}: expected a share between 0 and 1, and --pretrained, whose weights have the rest")
    return args


def network_of(args: Namespace) -> str:
    """Return the network's name in MODELS."""
    return args.arch + "_bwn" * args.bwn


def recipe_for(args: Namespace) -> Recipe:
    """Return the recipe of the network on this device, with what the flags change."""
    name, recipe = network_of(args), RECIPES.get(network_of(args), RECIPES[args.arch])
    if steps.device_of(args).type == "cuda":
        recipe = replace(recipe, **RECIPES_ON_GPU.get(name, ON_GPU))
    if args.classes:
        from util.train import own  # here: it loads OpenCV

        recipe = own.recipe_for(recipe, initial_weights(args) is not None)
    return recipe.with_flags(args)


def tested_classes(args: Namespace) -> int | None:
    """Return of how many classes, the first, a test is: of a network for clips CIFAR-10 asks for its ten; None: of all."""
    return None if args.classes else len(CLASSES)


def initial_weights(args: Namespace) -> Path | None:
    """Return the weights that a training begins with, or None: see `data.initial_weights`."""
    return data.initial_weights(args, HERE / "models" / f"{network_of(args)}.best.pth.tar")


def spec_for(args: Namespace) -> Spec:
    """Return what a clip needs to know of the network that is trained: its classes are the folder's where those are not CIFAR-10's."""
    spec = SPECS[network_of(args)]
    # Known of the data set's classes alone.
    unset = {"also_right": {}, "kinds": {}, "prior": {}, "aspects": {}, "speeds": {}, "temperature": 1.0, "unknown_below": 0.0}
    return replace(spec, classes=tuple(args.classes), **unset) if args.classes else spec


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args: Namespace, train: bool, spec: Spec | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images (N, 3, 32, 32) and labels (N,); spec: of the network that is tested, where its classes may be others."""
    if args.classes and not train:
        from util.train import own

        return own.load_test(args.data, spec.classes, args.limit).prepared(spec)
    from torchvision import datasets  # here, since importing it takes as long as all the rest

    images, labels = data.load(datasets.CIFAR10, args.data or HERE / "data", train, CLASSES, "RGB", 32)
    return data.subset(images, labels, args.limit)


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)


# ---- Train -----------------------------------------------------------------------------------------------------------
def teacher_of(args: Namespace, count: int, kept: torch.Tensor, device: torch.device) -> steps.Teacher | None:
    """Return the teacher of --teacher, or None; `kept`: which of the `count` images are trained on; indices count those.

    Cached it is the logits that a network of PyTorch_CIFAR10 has written of the images without augmentation. Online it is networks:
    of several, the mean of their log-probabilities, an ensemble that is right more often than each (Hinton et al. 2015, section 3).
    """
    if args.teacher is None:
        return None
    if args.teacher[0].suffix == ".safetensors":
        if len(args.teacher) > 1:
            raise InputError(f"{args.teacher[0]}: cached logits teach alone; leave {args.teacher[1]} out")
        check_teachers(args, [tuple(CLASSES)])
        return steps.cached_teacher(args.teacher[0], count, len(CLASSES), kept, device)
    teachers, classes = zip(*(load_teacher(path, device) for path in args.teacher), strict=True)
    check_teachers(args, classes)
    return steps.Teacher(lambda x, indices: sum(teacher(x).float().log_softmax(1) for teacher in teachers) / len(teachers), online=True)


def check_teachers(args: Namespace, classes: Sequence[tuple[str, ...]]) -> None:
    """Raise InputError unless the teachers, who know these classes, all know those of the network; beside --wild CIFAR-10's are enough."""
    own = SPECS[network_of(args)].classes
    if set(classes) != {own} and not (args.wild and set(classes) == {tuple(CLASSES)}):
        found = ", ".join(f"{path} {' '.join(known)}" for path, known in zip(args.teacher, classes, strict=True))
        raise InputError(f"teachers know other classes than {' '.join(own)}, or not all the same: {found}")


def load_teacher(path: Path, device: torch.device) -> tuple[nn.Module, tuple[str, ...]]:
    """Return (a network in evaluation mode, its classes); binarized, its weights are signs, its layers packed on a CPU."""
    from PyTorch_CIFAR10 import networks  # here, since importing it takes as long as all the rest

    saved = checkpoint.load(path)
    arch = saved.get("arch", "airbench")
    if arch in MODELS:
        teacher = MODELS[arch]()
        checkpoint.fill(teacher, saved, path, arch)
        teacher = predict.frozen(teacher.to(device))
    elif arch in networks.ALL:
        teacher = networks.load(arch, path)
    else:
        raise InputError(f"{path}: holds {arch}, expected one of PyTorch_CIFAR10/state_dicts, of this script, or logits (.safetensors)")
    spec = checkpoint.spec_of(saved, path, spec_of(arch))
    if (spec.mean, spec.std) != (MEAN, STD):  # of PyTorch_CIFAR10/main.py --old-std
        raise InputError(f"{path}: has learnt from images standardised by {spec.mean} and {spec.std}, not {MEAN} and {STD}; give another")
    return teacher.to(device, memory_format=torch.channels_last).eval(), spec.classes


def step_of(learner: Learner, material: Material) -> Callable[..., torch.Tensor]:
    """Return what takes a training step: (images at full size, images as the network sees them, labels, indices, frozen) -> loss.

    indices: of the images among the training images. frozen: batch norms keep their statistics. On a GPU it is a CUDA graph.
    """
    model, optimizer, bin_op, machine, teacher = learner.model, learner.optimizer, learner.bin_op, learner.machine, material.teacher
    device = machine.device.type

    def step(full, x, y, indices, frozen):
        freeze_batch_norm(model, frozen)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=machine.bf16), torch.no_grad():
            teacher_logits = teacher.logits(full, indices).float() if teacher else None
        with bin_op.binarized():
            with torch.autocast(device, torch.bfloat16, enabled=machine.bf16):
                logits = learner.forward(x).float()
            loss = material.loss(logits, y, teacher_logits)
            loss.backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()
        steps.update_ema(learner.ema, model)
        return loss.detach()

    return steps.CudaGraphStep(step) if device == "cuda" and machine.processes == 1 else step


def train_epoch(model: nn.Module, step: Callable[..., torch.Tensor], material: Material, training: Run, frozen: bool) -> None:
    """Take the steps that pass once over the material, in an order that seed and epoch fix."""
    recipe, device = training.recipe, training.machine.device
    model.train()
    for batch in training.batches(material.count):
        anneal_sign(model, recipe.clamp_share(batch.progress))
        x, y, indices = (part.to(device, non_blocking=True) for part in material.batch_of(batch))
        x = preprocess(x)
        training.add(step(x, data.resized(x, recipe.size(batch.epoch)), y, indices, frozen), batch.size)


def recalibrate_batch_norm(model: nn.Module, images: torch.Tensor, device: torch.device, bin_op: BinOp) -> None:
    """Measure the batch norms' statistics anew over `images`: averaged weights have none, and signs are sensitive to them."""
    model.eval()
    with bin_op.binarized():
        update_bn((preprocess(x.to(device)) for x in images.split(250)), model)


# ---- The story -------------------------------------------------------------------------------------------------------
def start_from(model: nn.Module, args: Namespace, recipe: Recipe, spec: Spec | None = None) -> Recipe:
    """Put the `initial_weights` into the model; return the recipe without what they have learnt: small images and, mostly, signs."""
    name, float_activations = network_of(args), f"{args.arch}_bwn"
    archs = [name, float_activations, name.removesuffix(CLIPS)]
    known = {arch: SPECS[arch].classes for arch in archs if arch in SPECS}
    found = checkpoint.start_from(model, initial_weights(args), spec or SPECS[name], known)
    if CLIPS in args.arch or args.classes:
        return recipe
    anneal_until = recipe.anneal_until if found == float_activations else 0.0
    return replace(recipe, sizes=recipe.sizes[1:] or recipe.sizes, anneal_until=anneal_until)


def material_for(args: Namespace, recipe: Recipe, machine: steps.Machine) -> Material:
    """Return CIFAR-10's training images, alone or beside those of --wild."""
    if CLIPS in args.arch and not args.wild:
        raise InputError(f"--arch {args.arch} learns people and other things from --wild DIR, which CIFAR-10 lacks; give it")
    device = machine.device
    images, labels = load_data(args, train=True)
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    mixed = torch.randperm(len(kept), generator=generator(0))  # a folder's images come class by class
    some = kept[mixed[: max(1, len(kept) // RECALIBRATE_BY)]]
    validation, teacher = (images[held_out], labels[held_out]), teacher_of(args, len(images), kept, device)
    if args.wild:
        from util.train import wild

        mixture = wild.WildMixture(images[kept], labels[kept], args.wild, SPECS[network_of(args)], machine.share(recipe.batch_size), device)
        sample = mixture.sample(args.seed, 2 * len(some))  # of 1,500, another draw moves the accuracy by 0.1 points
        return Material(mixture.batch_of, len(kept), mixture.loss, mixture.validation(*validation), sample, teacher)
    if not (teacher and teacher.online):  # labels and cached logits know nothing of mixed images
        recipe = replace(recipe, cutmix=0.0)
    batch_of = augmented_batches(images[kept].to(device), labels[kept].to(device), recipe)
    return Material(batch_of, len(kept), steps.loss_for(teacher), validation, images[some], teacher)


def own_material(model: nn.Module, args: Namespace, recipe: Recipe, spec: Spec, machine: steps.Machine) -> tuple:
    """Return (own.OwnImages, Material, Recipe) of the folder of --data, after fitting the head of a model that has initial weights."""
    from util.train import head, own

    if args.teacher or args.wild or machine.processes > 1:
        raise InputError(f"{args.data}: classes of one's own are learnt by one process, without --teacher or --wild; leave those out")
    images, weights = own.OwnImages(args.data, spec, recipe.batch_size, recipe.smoothing, args.limit), initial_weights(args)
    print(f"{args.data}: {images}", flush=True)
    if weights and not args.epochs:
        recipe = own.for_tracks(recipe, images, model)
    if weights and (args.blend or not args.resume):  # what the weights are blended with has that head, too
        earlier = head.soft_targets(weights, SPECS, spec, model)
        with BinOp(model.eval()).binarized():
            head.fit_head(model, preprocess, images, machine.device, earlier)
    return images, Material(images.batch_of, own.EPOCH, images.loss, images.validation(), images.sample(own.EPOCH // 4)), recipe


def train_epochs(learner: Learner, material: Material, training: Run, spec: Spec) -> None:
    """Train until the run is over; after each epoch evaluate the averaged weights."""
    recipe, model, averaged, device = training.recipe, learner.model, learner.ema.module, training.machine.device
    step, frozen_from = step_of(learner, material), math.ceil(recipe.freeze_bn_from * recipe.epochs)
    while not training.over:
        frozen = training.epoch >= frozen_from
        if training.epoch == frozen_from and training.step == 0:
            recalibrate_batch_norm(model, material.sample, device, learner.bin_op)
        train_epoch(model, step, material, training, frozen)
        if not frozen and recipe.size(training.epoch + 1) == SHAPE[-1]:
            recalibrate_batch_norm(averaged, material.sample, device, BinOp(averaged))
        training.end_epoch(predict.evaluate(averaged, spec, *material.validation), averaged)


def train(model: nn.Module, args: Namespace, recipe: Recipe, spec: Spec) -> float:
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    machine, name, learnt = steps.machine_for(args, args.bf16), network_of(args), ()
    steps.keep_memory()
    torch.backends.cudnn.benchmark = machine.device.type == "cuda"
    if args.classes:
        from util.train import own

        own_images, material, recipe = own_material(model, args, recipe, spec, machine)
        name, learnt = own.name_of(name, args.data), (args.classes, len(own_images.learnt.images))
    else:
        material = material_for(args, recipe, machine)
    began = {key: value.clone() for key, value in model.state_dict().items()} if args.blend else {}
    learner = Learner(model, recipe, machine, steps.ema_of(model, recipe.ema_decay))
    averaged, validation = learner.ema.module, material.validation
    files, settings = Files(HERE / "models", args.name or name), settings_of(args, network_of(args), recipe, *learnt)
    with Run(files, recipe, learner, settings, data.fingerprint(*validation), args.resume) as training:
        if args.classes and initial_weights(args) and not args.resume:
            training.take_as_best(predict.evaluate(averaged, spec, *validation), averaged)
        train_epochs(learner, material, training, spec)
        if args.blend:
            blended = steps.blend(averaged, began, args.blend)
            recalibrate_batch_norm(blended, material.sample, machine.device, BinOp(blended))
            training.take_as_best(predict.evaluate(blended, spec, *validation), blended)
        averaged.load_state_dict(training.best.state_dict)
        if args.classes:
            spec, counts = own.test_and_calibrate(own_images, predict.TorchNetwork(averaged, spec))
        tested = own_images.test.prepared(spec) if args.classes else load_data(args, train=False)
        accuracy = predict.evaluate(averaged, spec, *tested, tested_classes(args))
        if training.finish(accuracy, checkpoint.compact(training.best.state_dict, averaged), spec) and args.classes:
            own.write_results(averaged, spec, counts, files)
    return accuracy


def main(argv: list[str] | None = None) -> float | None:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.allow_tf32 = False  # signs depend on what TF32 rounds off: 0.2 points of the test images
    arch, device = network_of(args), steps.device_of(args)

    def build(classes):
        return MODELS[arch](classes=classes).to(device, memory_format=torch.channels_last)

    names = args.fastMCD or args.multi_fastMCD or args.video
    if not (args.evaluate or args.export or names):
        spec, recipe = spec_for(args), recipe_for(args)
        model = build(len(spec.classes))
        return train(model, args, start_from(model, args, recipe, spec) if initial_weights(args) else recipe, spec)
    network = predict.load_network(args, build, SPECS[arch], HERE / "models" / f"{args.name or arch}.best.pth.tar")
    if args.evaluate:
        accuracy = predict.accuracy(network, *load_data(args, False, network.spec), tested_classes(args))
        print(f"{arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if names:
        from util import watch  # here: who trains or evaluates needs nothing of it

        return watch.run(args, network)


if __name__ == "__main__":
    run(main)
