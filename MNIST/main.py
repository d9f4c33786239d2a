"""Binarized LeNet-5 on MNIST: train, evaluate, and read the digits that the detector found.

    python3 main.py --evaluate                           accuracy of the weights in models/
    python3 main.py --video CLIP --save OUT              detect what moves in a clip and read it
    python3 main.py --multi_fastMCD RESULTS --label 7    read the regions that the fastMCD program wrote
    python3 main.py                                      train
"""
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from util.cli import Parser, add_common_arguments, add_cpu_training_arguments, add_engine_arguments, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.layers import BinConv2d, BinLinear  # noqa: E402
from util.spec import Spec  # noqa: E402
from util.train import checkpoint, data, predict, steps  # noqa: E402
from util.train.recipe import Recipe  # noqa: E402
from util.train.run import Files, Run, settings_of  # noqa: E402
from util.train.steps import Learner  # noqa: E402

CLASSES = list("0123456789")
SHAPE = (1, 28, 28)  # channels, height, width
MEAN, STD = (0.1307,), (0.3081,)  # of the 60,000 training images
HELD_OUT = 5000  # training images that pick the epoch
SPEC = Spec(
    "LeNet_5", tuple(CLASSES), SHAPE, MEAN, STD, crop="digit",
    temperature=1.07, unknown_below=0.84,  # of the weights in models/; benchmarks/unknown.py finds them
    detector={"crop_context": 0.15, "crop_aspect": 1},  # square crops, so that there is room beside a 1
)  # fmt: skip


# ---- Models ----------------------------------------------------------------------------------------------------------
class LeNet5(nn.Module):
    """LeNet-5, (N, 1, 28, 28) -> (N, 10) logits: 0.43 M weights, 98.6 % of them 1-bit. Keys and shapes are those of XNOR-Net-PyTorch."""

    def __init__(self, estimator="polynomial", classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.bn_conv1 = nn.BatchNorm2d(20, eps=1e-4, affine=False)
        self.relu_conv1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.bin_conv2 = BinConv2d(20, 50, 5, estimator=estimator)
        self.pool2 = nn.MaxPool2d(2)
        self.bin_ip1 = BinLinear(50 * 4 * 4, 500, norm_channels=50, estimator=estimator)
        self.ip2 = nn.Linear(500, classes)

    def forward(self, x):
        x = self.pool1(self.relu_conv1(self.bn_conv1(self.conv1(x))))
        x = self.pool2(self.bin_conv2(x))
        return self.ip2(self.bin_ip1(x))


MODELS = {"LeNet_5": LeNet5}
RECIPE = Recipe(epochs=60, lr=0.003, batch_size=128, sizes=((1, 28),))


# ---- Arguments -------------------------------------------------------------------------------------------------------
def parse_args(argv: list[str] | None = None) -> Namespace:
    parser = Parser(description="Binarized LeNet-5 on MNIST: train (the default), evaluate, or read the digits that move.")
    add_common_arguments(parser, list(MODELS))
    add_engine_arguments(parser)
    add_cpu_training_arguments(parser)
    args = parser.parse_args(argv)
    args.classes = data.own_classes(args.data, CLASSES)
    return args


# ---- Data ------------------------------------------------------------------------------------------------------------
def initial_weights(args: Namespace) -> Path | None:
    """Return the weights that a training begins with, or None: see `data.initial_weights`."""
    return data.initial_weights(args, HERE / "models" / f"{args.arch}.best.pth.tar")


def load_data(args: Namespace, train: bool, spec: Spec = SPEC) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images (N, 1, 28, 28) and labels (N,); spec: of the network that is tested, where its classes may be others."""
    if args.classes and not train:
        from util.train import own  # here: it loads OpenCV

        return own.load_test(args.data, spec.classes, args.limit).prepared(spec)
    from torchvision import datasets  # here, since importing it takes as long as all the rest

    images, labels = data.load(datasets.MNIST, args.data or HERE / "data", train, CLASSES, "L", 28)
    return data.subset(images, labels, args.limit)


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """Return float32 (N, 1, 28, 28), standardised, from images of that shape with levels 0..255."""
    return data.normalize(images, MEAN, STD).contiguous(memory_format=torch.channels_last)  # a third faster


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
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


# ---- Train -----------------------------------------------------------------------------------------------------------
def train_epoch(learner: Learner, images: torch.Tensor, labels: torch.Tensor, training: Run) -> None:
    """Pass once over `images`, in an order and with an augmentation that seed, epoch and step fix."""
    optimizer, bin_op, device = learner.optimizer, learner.bin_op, learner.machine.device
    learner.model.train()
    for batch in training.batches(len(images)):
        x = preprocess(augment(images[batch.indices], batch.generator()).to(device))
        optimizer.zero_grad(set_to_none=True)
        with bin_op.binarized():
            loss = F.cross_entropy(learner.forward(x), labels[batch.indices].to(device))
            loss.backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()
        training.add(loss.detach(), batch.size)


# ---- The story -------------------------------------------------------------------------------------------------------
def train(model: nn.Module, args: Namespace, spec: Spec) -> float:
    """Return the test accuracy after training: the epoch is picked on held-out training images, the test set is read once."""
    recipe, machine, name, learnt = RECIPE, steps.machine_for(args, bf16=False), args.arch, ()
    if args.classes:
        from util.train import own

        if machine.processes > 1:
            raise InputError(f"{args.data}: classes of one's own are learnt by one process; start without torchrun")
        recipe = own.recipe_for(RECIPE, initial_weights(args) is not None)
        own_images = own.OwnImages(args.data, spec, recipe.batch_size, 0.0, args.limit)
        (images, labels), validation = own_images.balanced_sample(own.EPOCH), own_images.validation()
        name, learnt = own.name_of(name, args.data), (args.classes, len(own_images.learnt.images))
        print(f"{args.data}: {own_images}", flush=True)
    else:
        images, labels = load_data(args, train=True)
        kept, held_out = data.hold_out(min(HELD_OUT, len(images) // 5), len(images))
        images, labels, validation = images[kept], labels[kept], (images[held_out], labels[held_out])
    recipe = recipe.with_flags(args)
    learner = Learner(model, recipe, machine)
    files, settings = Files(HERE / "models", args.name or name), settings_of(args, args.arch, recipe, *learnt)
    with Run(files, recipe, learner, settings, data.fingerprint(*validation), args.resume) as training:
        while not training.over:
            train_epoch(learner, images, labels, training)
            training.end_epoch(predict.evaluate(model, spec, *validation), model)
        model.load_state_dict(training.best.state_dict)
        if args.classes:
            spec, counts = own.test_and_calibrate(own_images, predict.TorchNetwork(model, spec))
        accuracy = predict.evaluate(model, spec, *(own_images.test.prepared(spec) if args.classes else load_data(args, train=False)))
        if training.finish(accuracy, training.best.state_dict, spec) and args.classes:
            own.write_results(model, spec, counts, files)
    return accuracy


def main(argv: list[str] | None = None) -> float | None:
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    device = steps.device_of(args)

    def build(classes):
        return MODELS[args.arch](classes=classes).to(device, memory_format=torch.channels_last)

    names = args.fastMCD or args.multi_fastMCD or args.video
    if not (args.evaluate or args.export or names):
        spec = replace(SPEC, classes=tuple(args.classes), temperature=1.0, unknown_below=0.0) if args.classes else SPEC
        model = build(len(spec.classes))
        if weights := initial_weights(args):
            checkpoint.start_from(model, weights, spec, {args.arch: CLASSES})
        return train(model, args, spec)
    network = predict.load_network(args, build, SPEC, HERE / "models" / f"{args.name or args.arch}.best.pth.tar")
    if args.evaluate:
        accuracy = predict.accuracy(network, *load_data(args, False, network.spec))
        print(f"{args.arch}: {100 * accuracy:.2f} % of the test images right")
        return accuracy
    if names:
        from util import watch  # here: who trains or evaluates needs nothing of it

        return watch.run(args, network)


if __name__ == "__main__":
    run(main)
