"""Binarized networks on CIFAR-10: train, evaluate, and name what the detector found.

    python3 main.py --evaluate                                   accuracy of the weights in models/
    python3 main.py --video CLIP --save OUT                      detect what moves in a clip and name it
    python3 main.py --multi_fastMCD RESULTS --label automobile   name the regions that the fastMCD program wrote
    python3 main.py                                              train
"""
import math
import sys
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
from torch.nn import functional as F  # noqa: E402
from torch.optim.swa_utils import update_bn  # noqa: E402

from util.binop import BinOp  # noqa: E402
from util.cli import InputError, Parser, add_common_arguments, add_engine_arguments, add_teacher_argument, run  # noqa: E402
from util.layers import BatchNorm2d, BinConv2d, MaxPool2d, hold_statistics, soften  # noqa: E402
from util.spec import Spec  # noqa: E402
from util.train import checkpoint, data, predict, steps  # noqa: E402
from util.train.run import Log  # noqa: E402

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
SHAPE = (3, 32, 32)  # channels, height, width
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)  # of the 50,000 training images
HELD_OUT = 2000  # training images that pick the epoch
SETTLE = 16  # one in so many training images measures the statistics of batch norm
# Arch -> (temperature, probability below which a name is unknown) of the weights in models/; benchmarks/unknown.py finds them.
CALIBRATION = {"vgg": (0.49, 0.46), "nin": (0.67, 0.39), "nin_bwn": (0.57, 0.45), "resnet20": (0.64, 0.35)}


# ---- Models ----------------------------------------------------------------------------------------------------------
class NIN(nn.Module):
    """Network in Network, (N, 3, 32, 32) -> (N, 10) logits >= 0: 0.97 M weights, 98 % of them 1-bit; 222 M multiply-adds.

    Keys and shapes are those of XNOR-Net-PyTorch. Two things differ, neither of which changes what a checkpoint computes: dropout
    is 0 by default (0.5 there; too much for short trainings), and the last pooling takes any size, so that training can use smaller images.
    """

    def __init__(self, dropout=0.0, estimator="wide"):
        super().__init__()

        def block(in_channels, out_channels, kernel_size, padding=0, dropout=0.0):
            return BinConv2d(in_channels, out_channels, kernel_size, padding=padding, dropout=dropout, estimator=estimator)

        self.xnor = nn.Sequential(
            nn.Conv2d(3, 192, 5, padding=2),
            BatchNorm2d(192, eps=1e-4, affine=False),
            nn.ReLU(),
            block(192, 160, 1),
            block(160, 96, 1),
            MaxPool2d(3, 2, padding=1),
            block(96, 192, 5, padding=2, dropout=dropout),
            block(192, 192, 1),
            block(192, 192, 1),
            nn.AvgPool2d(3, 2, padding=1),
            block(192, 192, 3, padding=1, dropout=dropout),
            block(192, 192, 1),
            BatchNorm2d(192, eps=1e-4, affine=False),
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

    def __init__(self, estimator="polynomial"):
        super().__init__()
        widths = [(128, 128), (128, 128), None, (128, 256), (256, 256), None, (256, 512), (512, 512)]
        self.features = nn.Sequential(
            nn.Conv2d(3, 128, 3, padding=1, bias=False),
            MaxPool2d(2),
            BatchNorm2d(128),
            *(Residual(*pair, estimator=estimator) if pair else MaxPool2d(2) for pair in widths),
            BatchNorm2d(512),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(512, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class ResNet20(nn.Module):
    """ResNet-20 with a shortcut past every layer, (N, 3, 32, 32) -> (N, 10) logits: 0.27 M 1-bit weights, 41 M multiply-adds."""

    def __init__(self, estimator="polynomial"):
        super().__init__()
        widths = [16] * 7 + [32] * 6 + [64] * 6
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            BatchNorm2d(16),
            *(Residual(a, b, stride=b // a, estimator=estimator) for a, b in pairwise(widths)),
            BatchNorm2d(64),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


NETWORKS = {"nin": NIN, "vgg": VGG, "resnet20": ResNet20}
MODELS = NETWORKS | {f"{arch}_bwn": partial(model, estimator="none") for arch, model in NETWORKS.items()}  # activations stay floats
# How each is trained: the defaults of its flags; shares of the training: the size of images until then, until when activations are
# soft, and from when the batch norms' statistics are held; by how many pixels images are moved at most, and the share of them that is
# mixed with others, if the teacher can be asked about the mixture.
RECIPE = {"batch_size": 128, "sizes": [(0.4, 16), (0.75, 24), (1, 32)], "soft": 0.0, "held": 1.0, "shift": 2, "mix": 0.0}
RECIPES = {
    "nin": RECIPE | {"epochs": 60, "lr": 0.006, "soft": 0.6, "held": 0.93},
    "nin_bwn": RECIPE | {"epochs": 64, "lr": 0.004},
    "vgg": RECIPE | {"epochs": 50, "lr": 0.005},
    "resnet20": RECIPE | {"epochs": 50, "lr": 0.005, "sizes": [(0.5, 24), (1, 32)]},
}
# What differs on a GPU, where an epoch takes a second and small images save little of it.
ON_GPU = {"batch_size": 192, "sizes": [(1, 32)]}
RECIPES_ON_GPU = {"nin": ON_GPU | {"epochs": 322}, "vgg": ON_GPU | {"epochs": 355, "lr": 0.006, "shift": 4, "mix": 0.5}}


def spec_of(name):
    """Return what a clip needs to know of the network `name`."""
    temperature, unknown_below = CALIBRATION.get(name, (1.0, 0.0))
    return Spec(name, tuple(CLASSES), SHAPE, MEAN, STD, "object", {"automobile": ("truck",)}, temperature, unknown_below)


SPECS = {name: spec_of(name) for name in MODELS}


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv=None):
    parser = Parser(description="Binarized networks on CIFAR-10: train (the default), evaluate, or name what moves.")
    add_common_arguments(parser, list(NETWORKS), CLASSES, epochs=0, lr=0.0)
    add_engine_arguments(parser)
    parser.add_argument("--bwn", action="store_true", help="binary weights only: activations stay floats")
    add_teacher_argument(parser, more=" (.safetensors), or a network of PyTorch_CIFAR10/state_dicts, asked in each step")
    parser.set_defaults(**RECIPES["nin"])
    given = parser.parse_known_args(argv)[0]
    name, device = given.arch + "_bwn" * given.bwn, torch.device("cuda" if torch.cuda.is_available() and not given.cpu else "cpu")
    recipe = RECIPES.get(name, RECIPES[given.arch])
    if device.type == "cuda":
        recipe = recipe | RECIPES_ON_GPU.get(name, ON_GPU)
    parser.set_defaults(name=name, device=device, **recipe)
    return parser.parse_args(argv)


# ---- Data ------------------------------------------------------------------------------------------------------------
def load_data(args, train):
    from torchvision import datasets  # here, since importing it takes as long as all the rest

    images, labels = data.load(datasets.CIFAR10, args.data or HERE / "data", train, CLASSES, "RGB", 32)
    return images[: args.limit], labels[: args.limit]


def preprocess(images):
    """Return float32 (N, 3, H, W), standardised per channel, from uint8 images of that shape."""
    return data.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)


# ---- Train, evaluate -------------------------------------------------------------------------------------------------
def teacher_of(args, count, kept, device):
    """Return what tells a teacher's logits of images x (N, 3, 32, 32), the kept[batch] of `count`, and whether it sees x; or None, False.

    The teacher is a network of PyTorch_CIFAR10, which sees what the pupil sees, or the answers that one has written to images as they are.
    """
    if args.teacher is None:
        return None, False
    if args.teacher.suffix == ".safetensors":
        answers = steps.load_answers(args.teacher, count, len(CLASSES))[kept].to(device)
        return lambda x, batch: answers[batch], False
    from PyTorch_CIFAR10 import networks  # here, since importing it takes as long as all the rest

    arch = checkpoint.load(args.teacher).get("arch", "airbench")
    if arch not in networks.NETWORKS:
        raise InputError(f"{args.teacher}: holds {arch}, expected one of PyTorch_CIFAR10/state_dicts, or logits (.safetensors)")
    teacher = networks.load(arch, args.teacher)
    teacher.to(device, memory_format=torch.channels_last).eval()
    return lambda x, batch: teacher(x), True


def step_of(model, step_model, teach, sees, log, args, device, bin_op):
    """Return what takes a training step: (images at full size and as seen, labels, places among the training images, held) -> loss.

    On a GPU it is recorded, so it takes nothing from the CPU and gives nothing back; held: see layers.hold_statistics.
    """

    def step(x, seen, y, batch, held):
        hold_statistics(model, held)
        log.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16), torch.no_grad():
            taught = teach(x, batch).float() if teach else None
        with bin_op.binarized():
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                logits = step_model(seen).float()
            loss = steps.distance(logits, taught) if sees else steps.loss_of(logits, y, taught)
            loss.backward()
        bin_op.updateBinaryGradWeight()
        log.optimizer.step()
        steps.follow(log.average, model)
        return loss.detach()

    return steps.Recorded(step) if device.type == "cuda" and args.processes == 1 else step


def train_epoch(model, step, images, labels, held, log, args):
    """Pass once over `images`, in an order and with an augmentation that seed, epoch and step fix."""
    epoch = log.epoch + 1
    order = torch.randperm(len(images), generator=steps.generator(args.seed, epoch))
    batches = order[: len(order) // args.processes * args.processes].split(args.batch_size)
    size = steps.image_size(args.sizes, epoch / args.epochs)
    model.train()
    for i in log.steps(len(batches), f"epoch {epoch} at {size} px"):
        progress = (epoch - 1 + i / len(batches)) / args.epochs
        steps.set_lr(log.optimizer, args.lr * min(1, progress * 50) * (1 - progress))
        soften(model, max(0.0, 1 - progress / args.soft) if args.soft else 0.0)
        generator, batch = steps.generator(args.seed, epoch, i + 1, args.rank), batches[i][args.rank :: args.processes]
        batch = batch.to(images.device, non_blocking=True)
        x = data.random_mirror(data.random_shift(images[batch], args.shift, generator), generator)
        x = preprocess(data.random_mix(x, args.mix, generator) if args.mix else x)
        log.add(step(x, data.resized(x, size), labels[batch], batch, held), len(batches[i]))


def settle(model, images, device, bin_op):
    """Measure the batch norms' statistics anew over `images`: averaged weights have none, and a sign feels where a mean lies."""
    model.eval()
    with bin_op.binarized():
        update_bn((preprocess(x.to(device)) for x in images.split(250)), model)


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




# ---- The story -------------------------------------------------------------------------------------------------------
def start_from(model, args):
    """Put the weights of --pretrained into the model; leave out of the recipe what they have learnt: small images and, mostly, signs."""
    with_floats = f"{args.arch}_bwn"
    found = checkpoint.load_into(model, args.pretrained, args.name, with_floats).get("arch")
    args.sizes = args.sizes[1:] or args.sizes
    if found != with_floats:
        args.soft = 0.0


def train(model, args, device, bin_op):
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    images, labels = (x.to(device) for x in load_data(args, train=True))
    kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
    some = kept[torch.randperm(len(kept), generator=steps.generator(0))[: max(1, len(kept) // SETTLE)]]  # mixed: files come by class
    teach, sees = teacher_of(args, len(images), kept, device)
    args.mix = args.mix if sees else 0.0
    steps.keep_memory()
    args.rank, args.processes = steps.join_processes(device)
    args.bf16 = steps.fast_bf16(device)
    on_gpu = torch.backends.cudnn.benchmark = device.type == "cuda"
    lr = torch.tensor(args.lr, device=device) if on_gpu else args.lr  # a recorded step reads it there
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99), fused=True, capturable=on_gpu)
    averaged = steps.running_average(model)
    averaged_op = BinOp(averaged)
    step_model = steps.step_model(model, args)
    with Log(HERE / "models", args.name, args, model, optimizer, averaged) as log:
        step = step_of(model, step_model, teach, sees, log, args, device, bin_op)
        hold = math.ceil(args.held * args.epochs)  # from this epoch on
        while log.epoch < args.epochs:
            if log.epoch == hold and log.step == 0:
                settle(model, images[some], device, bin_op)
            train_epoch(model, step, images[kept], labels[kept], log.epoch >= hold, log, args)
            if log.epoch < hold and steps.image_size(args.sizes, (log.epoch + 1) / args.epochs) == SHAPE[-1]:
                settle(averaged, images[some], device, averaged_op)
            _, accuracy = evaluate(averaged, images[held_out], labels[held_out], device, averaged_op)
            log.end_epoch(len(kept), accuracy)
        log.load_best()
        _, accuracy = evaluate(averaged, *load_data(args, train=False), device, averaged_op)
        log.finish(accuracy)
    return accuracy


def main(argv=None):
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.allow_tf32 = False  # a sign feels what TF32 rounds off: 0.2 points of the test images
    device = args.device
    model = MODELS[args.name]().to(device, memory_format=torch.channels_last)
    names = args.fastMCD or args.multi_fastMCD or args.video
    if not (args.evaluate or args.export or names):
        if args.pretrained:
            start_from(model, args)
        return train(model, args, device, BinOp(model, args.compile))
    network = predict.load_network(args, model, SPECS[args.name], HERE / "models" / f"{args.name}.best.pth.tar")
    if args.evaluate:
        accuracy = predict.accuracy(network, *load_data(args, train=False))
        print(f"{args.name}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if names:
        from util import watch  # here: who trains or evaluates needs nothing of it

        return watch.run(args, network)


if __name__ == "__main__":
    run(main)
