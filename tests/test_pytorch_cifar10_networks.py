"""The networks of PyTorch_CIFAR10 against the published facts, and against forward passes written out from their state dicts."""
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.scripts import load_script
from util.errors import InputError

networks = load_script("PyTorch_CIFAR10/cifar10_download.py").networks

# Millions of parameters as published; inception_v3 is given as 21.640 there, its own code makes 21.639. airbench: counted by hand,
# 312 (whitening) + 9 * (24*64 + 64*64 + 64*256 + 3*256*256) + 4 * (64 + 256 + 256) (batch norm) + 2560.
PUBLISHED = {
    "vgg11_bn": "28.150", "vgg13_bn": "28.334", "vgg16_bn": "33.647", "vgg19_bn": "38.959", "resnet18": "11.174", "resnet34": "21.282",
    "resnet50": "23.521", "densenet121": "6.956", "densenet161": "26.483", "densenet169": "12.493", "mobilenet_v2": "2.237",
    "googlenet": "5.491", "inception_v3": "21.639", "airbench": "1.973",
}  # fmt: skip
# A layer, the side of what comes out of it for a 32x32 image, and keys with their shapes.
LAYERS = {
    "vgg11_bn": ("features", 1, {"features.1.running_var": (64,), "classifier.0.weight": (4096, 512), "classifier.6.weight": (10, 4096)}),
    "vgg13_bn": ("features", 1, {"features.3.bias": (64,), "features.4.num_batches_tracked": (), "classifier.3.weight": (4096, 4096)}),
    "vgg16_bn": ("features", 1, {"features.40.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 512)}),
    "vgg19_bn": ("features", 1, {"features.49.weight": (512, 512, 3, 3), "classifier.6.bias": (10,)}),
    "resnet18": ("layer1", 16, {"conv1.weight": (64, 3, 3, 3), "layer4.0.downsample.0.weight": (512, 256, 1, 1), "fc.weight": (10, 512)}),
    "resnet34": ("layer4", 2, {"conv1.weight": (64, 3, 3, 3), "layer3.5.bn2.running_mean": (256,), "fc.weight": (10, 512)}),
    "resnet50": ("layer4", 2, {"layer2.0.conv2.weight": (128, 128, 3, 3), "layer1.0.bn3.weight": (256,), "fc.weight": (10, 2048)}),
    "densenet121": ("features.pool0", 16, {"features.conv0.weight": (64, 3, 3, 3), "classifier.weight": (10, 1024)}),
    "densenet161": ("features.norm5", 2, {"features.denseblock1.denselayer1.conv2.weight": (48, 192, 3, 3)}),
    "densenet169": ("features.norm5", 2, {"features.denseblock4.denselayer32.norm1.weight": (1632,), "classifier.weight": (10, 1664)}),
    "mobilenet_v2": ("features.18", 4, {"features.1.conv.0.0.weight": (32, 1, 3, 3), "features.1.conv.2.weight": (16,),
                                        "features.2.conv.3.weight": (24,), "classifier.1.weight": (10, 1280)}),
    "googlenet": ("inception5b", 8, {"conv1.conv.weight": (192, 3, 3, 3), "inception3a.branch2.1.conv.weight": (128, 96, 3, 3),
                                     "inception3a.branch4.1.bn.weight": (32,), "fc.weight": (10, 1024)}),
    "inception_v3": ("Mixed_7c", 7, {"Conv2d_1a_3x3.conv.weight": (192, 3, 3, 3), "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
                                     "Mixed_7a.branch3x3_2.conv.weight": (320, 192, 3, 3), "fc.weight": (10, 2048)}),
    "airbench": ("blocks", 3, {"whiten.weight": (24, 3, 2, 2), "blocks.1.conv1.weight": (256, 64, 3, 3), "head.weight": (10, 256)}),
}  # fmt: skip


def on_meta(name, **options):
    """The network without memory for its weights: shapes only."""
    with torch.device("meta"):
        return networks.NETWORKS[name](**options).eval()


# ---- The networks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_network_has_the_published_size_keys_and_shapes(name):
    model = on_meta(name)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}" == PUBLISHED[name]
    layer, side, shapes = LAYERS[name]
    state = model.state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not [key for key in state if re.match(r"aux|AuxLogits|conv[23]\.|Conv2d_[234]", key) and not name.startswith("resnet")]
    sizes = []
    model.get_submodule(layer).register_forward_hook(lambda *call: sizes.append(call[2].shape[2:]))
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)
    assert sizes == [(side, side)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "vgg11_bn"])
def test_new_network_starts_with_finite_logits_and_no_layer_left_empty(name):
    torch.manual_seed(0)
    model = networks.NETWORKS[name]().eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 32))
    assert logits.shape == (1, 10) and logits.isfinite().all()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert 1e-3 < module.weight.std() < 1 and module.weight.mean().abs() < 0.02
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all() and (module.bias == 0).all()


def test_strided_depthwise_convolutions_stay_float32_under_autocast():
    strided = [m for m in networks.NETWORKS["mobilenet_v2"]().modules() if isinstance(m, networks.FloatConv2d)]
    assert [m.groups for m in strided] == [144, 192, 576]
    x = torch.randn(2, 144, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = strided[0](x.bfloat16())
    assert torch.equal(found, F.conv2d(x.bfloat16().float(), strided[0].weight, stride=2, padding=1, groups=144))


def test_published_file_loads_and_computes_the_same(tmp_path):
    torch.manual_seed(1)
    model = networks.NETWORKS["mobilenet_v2"]().eval()
    torch.save(model.state_dict(), tmp_path / "mobilenet_v2.pt")
    loaded = networks.load("mobilenet_v2", tmp_path / "mobilenet_v2.pt").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))
    with pytest.raises(InputError, match="not a checkpoint of resnet18"):
        networks.load("resnet18", tmp_path / "mobilenet_v2.pt")


@pytest.mark.filterwarnings("ignore:.*no-op")
@pytest.mark.parametrize(("name", "options"), [("vgg11_bn", {"pool": 7}), ("googlenet", {"block": networks.Inception5x5})])
def test_other_variants_are_told_by_their_shapes(tmp_path, name, options):
    # One number stands for all of a tensor, in the file too: a real VGG of that kind has 500 MB.
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in on_meta(name, **options).state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    with torch.device("meta"):
        model = networks.load(name, tmp_path / "other.pt").eval()
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)
    if name == "vgg11_bn":
        assert model.classifier[0].weight.shape == (4096, 25088) and model.avgpool.output_size == 7
    else:
        assert model.inception5b.branch3[1].conv.kernel_size == (5, 5)


# ---- What each one computes, from nothing but its state dict ---------------------------------------------------------
def conv(s, key, x, stride=1, groups=1, padding=None):
    weight = s[f"{key}.weight"]
    padding = [k // 2 for k in weight.shape[2:]] if padding is None else padding
    return F.conv2d(x, weight, s.get(f"{key}.bias"), stride, padding, 1, groups)


def norm(s, key, x, eps=1e-5):
    mean, variance, weight, bias = (s[f"{key}.{n}"].view(-1, 1, 1) for n in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def linear(s, key, x):
    return x @ s[f"{key}.weight"].T + s.get(f"{key}.bias", 0)


def found(s, pattern):
    """The parts 0, 1, 2, … of a network (or 1, 2, 3, …) of which the state dict has something: pattern with each number."""
    numbers = {int(match[1]) for name in s if (match := re.match(pattern.replace(".", r"\.").replace("{}", r"(\d+)") + r"\.", name))}
    return [pattern.format(number) for number in sorted(numbers)]


def vgg(s, x, layout):
    i = 0
    for layers in layout:
        for _ in range(layers):
            x, i = norm(s, f"features.{i + 1}", conv(s, f"features.{i}", x)).relu(), i + 3
        x, i = F.max_pool2d(x, 2), i + 1
    x = linear(s, "classifier.0", x.flatten(1)).relu()
    return linear(s, "classifier.6", linear(s, "classifier.3", x).relu())


def resnet(s, x):
    x = F.max_pool2d(norm(s, "bn1", conv(s, "conv1", x)).relu(), 3, 2, 1)
    for key in [key for layer in range(1, 5) for key in found(s, f"layer{layer}.{{}}")]:
        stride = 2 if key.endswith(".0") and key != "layer1.0" else 1
        last, y = 3 if f"{key}.conv3.weight" in s else 2, x
        for i in range(1, last + 1):
            y = norm(s, f"{key}.bn{i}", conv(s, f"{key}.conv{i}", y, stride if i == last - 1 else 1))
            y = y.relu() if i < last else y
        if f"{key}.downsample.0.weight" in s:
            x = norm(s, f"{key}.downsample.1", conv(s, f"{key}.downsample.0", x, stride))
        x = (x + y).relu()
    return linear(s, "fc", x.mean((2, 3)))


def densenet(s, x):
    x = F.max_pool2d(norm(s, "features.norm0", conv(s, "features.conv0", x)).relu(), 3, 2, 1)
    for block in range(1, 5):
        for key in found(s, f"features.denseblock{block}.denselayer{{}}"):
            y = conv(s, f"{key}.conv1", norm(s, f"{key}.norm1", x).relu())
            x = torch.cat([x, conv(s, f"{key}.conv2", norm(s, f"{key}.norm2", y).relu())], 1)
        if block < 4:
            key = f"features.transition{block}"
            x = F.avg_pool2d(conv(s, f"{key}.conv", norm(s, f"{key}.norm", x).relu()), 2)
    return linear(s, "classifier", norm(s, "features.norm5", x).relu().mean((2, 3)))


def mobilenet(s, x):
    def layer(conv_key, norm_key, x, stride=1):
        depthwise = s[f"{conv_key}.weight"].shape[1] == 1
        return norm(s, norm_key, conv(s, conv_key, x, stride, x.shape[1] if depthwise else 1))

    x = layer("features.0.0", "features.0.1", x).clamp(0, 6)
    x = layer("features.1.conv.1", "features.1.conv.2", layer("features.1.conv.0.0", "features.1.conv.0.1", x).clamp(0, 6))
    for i in range(2, 18):
        key, stride = f"features.{i}.conv", 2 if i in (4, 7, 14) else 1  # the first blocks with 32, 64 and 160 channels
        y = layer(f"{key}.1.0", f"{key}.1.1", layer(f"{key}.0.0", f"{key}.0.1", x).clamp(0, 6), stride).clamp(0, 6)
        y = layer(f"{key}.2", f"{key}.3", y)
        x = x + y if x.shape == y.shape else y
    return linear(s, "classifier.1", layer("features.18.0", "features.18.1", x).clamp(0, 6).mean((2, 3)))


def basic(s, key, x, *args, **options):
    return norm(s, f"{key}.bn", conv(s, f"{key}.conv", x, *args, **options), 1e-3).relu()


def googlenet(s, x):
    x = basic(s, "conv1", x)
    for name in "3a 3b 4a 4b 4c 4d 4e 5a 5b".split():
        if name in ("4a", "5a"):
            x = F.max_pool2d(x, 3, 2, 1)
        key = f"inception{name}"
        two, three = (basic(s, f"{key}.branch{i}.1", basic(s, f"{key}.branch{i}.0", x)) for i in (2, 3))
        x = torch.cat([basic(s, f"{key}.branch1", x), two, three, basic(s, f"{key}.branch4.1", F.max_pool2d(x, 3, 1, 1))], 1)
    return linear(s, "fc", x.mean((2, 3)))


def inception(s, x):
    def chain(x, *keys):
        for key in keys:
            x = basic(s, key, x)
        return x

    def halving(x, key):
        return basic(s, key, x, 2, padding=0)

    x = basic(s, "Conv2d_1a_3x3", x)
    for key in [f"Mixed_{name}" for name in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()]:
        double = [f"{key}.branch3x3dbl_{i}" for i in (1, 2)]
        if key == "Mixed_6a":
            parts = [halving(x, f"{key}.branch3x3"), halving(chain(x, *double), f"{key}.branch3x3dbl_3"), F.max_pool2d(x, 3, 2)]
        elif key == "Mixed_7a":
            seven = chain(x, *(f"{key}.branch7x7x3_{i}" for i in (1, 2, 3)))
            three = chain(x, f"{key}.branch3x3_1")
            parts = [halving(three, f"{key}.branch3x3_2"), halving(seven, f"{key}.branch7x7x3_4"), F.max_pool2d(x, 3, 2)]
        else:
            if key < "Mixed_6":
                middle = [chain(x, f"{key}.branch5x5_1", f"{key}.branch5x5_2"), chain(x, *double, f"{key}.branch3x3dbl_3")]
            elif key < "Mixed_7":
                middle = [chain(x, *(f"{key}.branch7x7{kind}_{i}" for i in range(1, n))) for kind, n in (("", 4), ("dbl", 6))]
            else:
                one, two = chain(x, f"{key}.branch3x3_1"), chain(x, *double)
                middle = [chain(y, f"{key}.{name}{end}") for y, name in ((one, "branch3x3_2"), (two, "branch3x3dbl_3")) for end in "ab"]
            parts = [chain(x, f"{key}.branch1x1"), *middle, chain(F.avg_pool2d(x, 3, 1, 1), f"{key}.branch_pool")]
        x = torch.cat(parts, 1)
    return linear(s, "fc", x.mean((2, 3)))


def airbench(s, x):
    def gelu(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    x = gelu(conv(s, "whiten", x, padding=0))
    for key in found(s, "blocks.{}"):
        x = gelu(norm(s, f"{key}.norm1", F.max_pool2d(conv(s, f"{key}.conv1", x), 2), 1e-12))
        x = gelu(norm(s, f"{key}.norm2", conv(s, f"{key}.conv2", x), 1e-12))
    return linear(s, "head", x.amax((2, 3))) / 9


WRITTEN_OUT = {
    "vgg11_bn": partial(vgg, layout=(1, 1, 2, 2, 2)), "vgg13_bn": partial(vgg, layout=(2, 2, 2, 2, 2)),
    "vgg16_bn": partial(vgg, layout=(2, 2, 3, 3, 3)), "vgg19_bn": partial(vgg, layout=(2, 2, 4, 4, 4)),
    "resnet18": resnet, "resnet34": resnet, "resnet50": resnet, "densenet121": densenet, "densenet161": densenet, "densenet169": densenet,
    "mobilenet_v2": mobilenet, "googlenet": googlenet, "inception_v3": inception, "airbench": airbench,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_network_computes_what_its_state_dict_says(name):
    with torch.device("meta"):
        model = networks.NETWORKS[name]().eval()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if value.dim() > 1:  # keeps the size of what goes through
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif value.dim():
            low, high = (0.5, 1.5) if key.endswith(("weight", "var")) else (-0.5, 0.5)
            value.uniform_(low, high, generator=generator)
    x = torch.randn(1, 3, 32, 32, generator=generator)
    with torch.no_grad():
        expected, logits = WRITTEN_OUT[name](model.state_dict(), x), model(x)
    assert expected.std() > 0.01 and torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * expected.std())
