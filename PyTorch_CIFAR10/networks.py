"""The 13 networks of huyvnphan/PyTorch_CIFAR10 for 32x32 images, made from torchvision's by editing stem, strides, pools and class count.

Keys and shapes of their state dicts are those of the files published there, state_dicts/<name>.pt. The 14th, airbench, is small and
learns fast; its weights are here, and those of the same network for clips, which knows two classes more.
"""
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.googlenet import BasicConv2d, Inception, InceptionAux

from util.errors import InputError
from util.train import checkpoint

CLASS_COUNT = 10
STATE_DICTS = Path(__file__).resolve().parent / "state_dicts"


def stem(channels, init):
    """Return a 3x3 convolution from RGB that keeps the size, in place of one that quarters it; `init` fills the weights in place."""
    convolution = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    init(convolution.weight)
    return convolution


def vgg(builder, pool=1):
    """Return a VGG with one pooled pixel before its classifier, or `pool` x `pool` as in the files published before 2021."""
    device = torch.get_default_device()
    with torch.device("meta"):  # torchvision's own first layer would need 400 MB, only to be replaced
        model = builder(num_classes=CLASS_COUNT)
        model.avgpool = nn.AdaptiveAvgPool2d(pool)
        model.classifier[0] = nn.Linear(512 * pool * pool, 4096)
    model.to_empty(device=device)
    for module in model.modules():  # as torchvision's VGG does it
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def resnet(builder):
    """Return a ResNet whose stem keeps the size; the max-pool behind it stays, so the four stages see 16, 8, 4 and 2 pixels."""
    model = builder(num_classes=CLASS_COUNT)
    model.conv1 = stem(64, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))
    return model


def densenet(builder):
    """Return a DenseNet whose stem keeps the size; the max-pool behind it stays."""
    model = builder(num_classes=CLASS_COUNT)
    model.features.conv0 = stem(model.features.conv0.out_channels, nn.init.kaiming_normal_)
    return model


class FloatConv2d(nn.Conv2d):
    """A convolution that stays float32 on a CPU: torch's bfloat16 gradient of a strided depthwise one takes 12 times as long there."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def mobilenet_v2():
    """Return a MobileNetV2 that halves the image three times instead of five."""
    t_c_n_s = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    model = models.MobileNetV2(num_classes=CLASS_COUNT, inverted_residual_setting=t_c_n_s)
    model.features[0][0].stride = (1, 1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride == (2, 2):
            module.__class__ = FloatConv2d  # it holds nothing more
    return model


class Inception5x5(Inception):
    """GoogLeNet's block with the 5x5 convolution of the paper, arXiv:1409.4842; torchvision has 3x3 there (pytorch/vision#906)."""

    def __init__(self, *channels):
        super().__init__(*channels)
        self.branch3[1] = BasicConv2d(*channels[4:6], kernel_size=5, padding=2)


def googlenet(block=Inception):
    """Return a GoogLeNet without auxiliary heads, whose stem is one 3x3 layer at full size."""
    blocks = [BasicConv2d, block, InceptionAux]
    model = models.GoogLeNet(num_classes=CLASS_COUNT, aux_logits=False, init_weights=False, blocks=blocks)
    model.conv1 = BasicConv2d(3, 192, kernel_size=3, padding=1)
    model.maxpool1 = model.conv2 = model.conv3 = model.maxpool2 = nn.Identity()
    model.maxpool3 = nn.MaxPool2d(3, 2, padding=1)
    model.maxpool4 = nn.MaxPool2d(3, 2, padding=1)
    return model


def inception_v3():
    """Return an Inception v3 without auxiliary head, whose stem is one 3x3 layer at full size."""
    model = models.Inception3(num_classes=CLASS_COUNT, aux_logits=False, init_weights=False)
    model.Conv2d_1a_3x3 = BasicConv2d(3, 192, kernel_size=3, padding=1)
    model.Conv2d_2a_3x3 = model.Conv2d_2b_3x3 = model.maxpool1 = nn.Identity()
    model.Conv2d_3b_1x1 = model.Conv2d_4a_3x3 = model.maxpool2 = nn.Identity()
    return model


class AirbenchBlock(nn.Module):
    """(N, in_channels, H, W) -> (N, out_channels, H // 2, W // 2): two 3x3 convolutions, each with batch norm and GELU."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        for i, channels in enumerate((in_channels, out_channels), 1):
            convolution = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            nn.init.dirac_(convolution.weight[:channels])  # the first outputs start as a copy of the input
            norm = nn.BatchNorm2d(out_channels, eps=1e-12, momentum=0.4)  # statistics of the last few batches
            norm.weight.requires_grad_(False)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"norm{i}", norm)

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench(nn.Module):
    """A small network that learns CIFAR-10 in a dozen epochs (airbench94: Jordan 2024, arXiv:2404.00498); 118 M multiply-accumulates."""

    def __init__(self, classes=CLASS_COUNT):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.blocks = nn.Sequential(AirbenchBlock(24, 64), AirbenchBlock(64, 256), AirbenchBlock(256, 256))
        self.head = nn.Linear(256, classes, bias=False)

    def forward(self, x):
        x = F.adaptive_max_pool2d(self.blocks(F.gelu(self.whiten(x))), 1)
        return self.head(x.flatten(1)) / 9

    @torch.no_grad()
    def fit_whitening(self, x):
        """Set the first layer to plus and minus the eigenvectors of the 2x2 patches of x (N, 3, H, W), scaled to unit variance."""
        patches = F.unfold(x, 2).transpose(1, 2).reshape(-1, 12)
        variances, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
        filters = (vectors / (variances + 5e-4).sqrt()).T.float().view(12, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.bias.zero_()


NETWORKS = {
    "resnet18": partial(resnet, models.resnet18),
    "resnet34": partial(resnet, models.resnet34),
    "resnet50": partial(resnet, models.resnet50),
    "vgg11_bn": partial(vgg, models.vgg11_bn),
    "vgg13_bn": partial(vgg, models.vgg13_bn),
    "vgg16_bn": partial(vgg, models.vgg16_bn),
    "vgg19_bn": partial(vgg, models.vgg19_bn),
    "densenet121": partial(densenet, models.densenet121),
    "densenet161": partial(densenet, models.densenet161),
    "densenet169": partial(densenet, models.densenet169),
    "mobilenet_v2": mobilenet_v2,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    "airbench": Airbench,
}
FOR_CLIPS = {"airbench_clips": partial(Airbench, classes=CLASS_COUNT + 2)}  # they know person and other, too
ALL = NETWORKS | FOR_CLIPS

# What else a file of that name may hold: (start of the name, key, its shape in the file, how to build for it).
VARIANTS = [
    ("vgg", "classifier.0.weight", (4096, 512 * 7 * 7), {"pool": 7}),  # published before 2021
    ("googlenet", "inception3a.branch3.1.conv.weight", (32, 16, 5, 5), {"block": Inception5x5}),  # true to the paper
]


def weights_path(name):
    """Return where the weights of a network are looked for and written to."""
    return STATE_DICTS / f"{name}.pt"


def build_for(name, state):
    """Return the network `name`, with new weights, in the variant that the state dict `state` belongs to."""
    for start, key, shape, options in VARIANTS:
        if name.startswith(start) and getattr(state.get(key), "shape", None) == shape:
            return NETWORKS[name](**options)
    return ALL[name]()


def load(name, path=None):
    """Return the network `name` with the weights of `path`, by default those of weights_path(name).

    Taken are published files (bare state dicts) and those of main.py, in any of VARIANTS. Raises InputError for a missing,
    unreadable or foreign file.
    """
    if path is None:
        path = weights_path(name)
        if not path.is_file():
            ways = f"main.py --classifier {name} trains it, cifar10_download.py fetches published weights, --pretrained names another file"
            raise InputError(f"{path}: no such file; {ways}")
    saved = checkpoint.load(path)
    model = build_for(name, saved["state_dict"])
    checkpoint.fill(model, saved, path, name)
    return model
