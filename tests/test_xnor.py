"""Bit-packed inference: every kernel against torch on +-1, frozen networks against the models they come from."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.scripts import ROOT, load_script
from util.binop import BinOp
from util.layers import BinConv2d, BinLinear
from util.packed import Engine, _xnor
from util.packed.fold import fold
from util.packed.freeze import FrozenLayer, NotAChainError, freeze, freeze_layers
from util.packed.trace import chain

cifar, mnist = load_script("CIFAR_10/main.py"), load_script("MNIST/main.py")
NETWORKS = {name: (network, cifar.SPECS[name]) for name, network in cifar.NETWORKS.items()} | {"LeNet_5": (mnist.LeNet5, mnist.SPEC)}


def unsettle(model, seed=0):
    """Give every batch norm and bias numbers that a training could have left, so that folding has something to get wrong."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.3, 3, generator=generator)
            if module.weight is not None:
                nn.init.normal_(module.weight, 0.5, 1, generator=generator)  # some negative: clamped to 0.01, or turned
                nn.init.normal_(module.bias, 0, 0.5, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, 0, 0.3, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3, generator=generator)
        elif isinstance(module, nn.PReLU):
            nn.init.normal_(module.weight, 0.2, 0.3, generator=generator)  # some negative
    return model.eval()


@torch.no_grad()
def predict(model, x):
    with BinOp(model).binarized():
        return model(x)


def standardised(images, spec):
    return (images.float() / 255 - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)


def run(network, images):
    """Return what a packed network or an Engine makes of a tensor, as a tensor of two axes."""
    return torch.from_numpy(network(images.numpy())).flatten(1)


def as_a_whole(model, shape, **options):
    return Engine(fold(chain(model), shape), shape, **options)


def pixels(count, shape, seed=0):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---- Kernels ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", _xnor.kernels())
@pytest.mark.parametrize("channels", [1, 3, 33, 63, 64, 65, 127, 128])
def test_every_kernel_is_torch_on_plus_and_minus_one(kernel, channels):
    rng = np.random.default_rng(channels)
    for outputs, size, stride, padding in [(1, 1, 1, 0), (33, 3, 1, 1), (65, 5, 2, 2), (7, 2, 3, 1), (130, 3, 1, 0)]:
        x = rng.standard_normal((2, 7, 6, channels)).astype(np.float32)
        x[rng.random(x.shape) < 0.1] = 0.0  # sign(0) is +1
        x[rng.random(x.shape) < 0.1] = -0.0
        negative = rng.integers(0, 2, (outputs, channels, size, size)).astype(np.uint8)
        signs = torch.from_numpy(np.where(x < 0, -1.0, 1.0)).permute(0, 3, 1, 2)
        expected = F.conv2d(signs, torch.from_numpy(1.0 - 2 * negative), stride=stride, padding=padding).permute(0, 2, 3, 1).numpy()
        for threads in (1, 2):
            network = _xnor.Network(channels, 7, 6, kernel, threads)
            network.sign(np.ones(channels, np.float32), np.zeros(channels, np.float32))
            network.binary_conv(negative, np.ones(outputs, np.float32), np.zeros(outputs, np.float32), False, stride, padding)
            scores = np.empty(expected.shape, np.float32)
            network.run(x, scores)
            np.testing.assert_array_equal(scores, expected)


def test_kernels_have_a_limit_that_is_measured():
    assert all(_xnor.peak(kernel) > 1e8 for kernel in _xnor.kernels())


def test_arrays_of_another_kind_are_refused():
    network = _xnor.Network(1, 4, 4)
    with pytest.raises(TypeError):
        network.sign(np.ones(1), np.zeros(1))  # float64
    with pytest.raises(ValueError, match="expected 1"):
        network.conv(np.ones((1, 1, 3, 3), np.float32), np.ones(9, np.float32), np.ones(1, np.float32), False, 1, 0)
    network = _xnor.Network(1, 4, 4)
    network.sign(np.ones(1, np.float32), np.zeros(1, np.float32))
    network.binary_conv(np.zeros((1, 1, 4, 4), np.uint8), np.ones(1, np.float32), np.zeros(1, np.float32), False, 1, 0)
    with pytest.raises(ValueError, match="images"):
        network.run(np.zeros((1, 4, 5, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match="result"):
        network.run(np.zeros((2, 4, 4, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32))


# ---- Freezing --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", _xnor.kernels())
@pytest.mark.parametrize("arch", ["nin", "vgg", "resnet20", "LeNet_5"])
def test_a_frozen_network_computes_what_its_model_does(arch, kernel):
    network, spec = NETWORKS[arch]
    torch.manual_seed(1)
    model = unsettle(network())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = freeze(model, spec, kernel)
    images = pixels(2 if kernel in ("scalar", "popcnt") else 6, spec.shape)
    x = standardised(images, spec)
    expected, logits = predict(model, x), run(frozen, images)
    torch.testing.assert_close(logits / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1
    assert torch.equal(run(frozen, x), logits) and frozen.spec is spec
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_threads_that_share_a_network_wait_for_its_run():
    rng = np.random.default_rng(0)
    network = _xnor.Network(16, 24, 24, "scalar")
    for _ in range(3):
        network.conv(rng.normal(size=(16, 16, 3, 3)).astype(np.float32), np.ones(16, np.float32), np.zeros(16, np.float32), True, 1, 1)
    images, scores = np.ones((50, 24, 24, 16), np.float32), np.full((50, 24, 24, 16), np.nan, np.float32)
    running = threading.Thread(target=network.run, args=(images, scores, True))
    running.start()
    while np.isnan(scores[0, -1, -1, -1]):  # it has begun
        time.sleep(0.0001)
    seen, last = network.seconds, scores[-1, -1, -1, -1]
    running.join()
    assert seen == network.seconds and not np.isnan(last)


FEW_THREADS = """
import resource
import numpy as np
from util.packed import _xnor
x, negative, scale = np.full((64, 9, 9, 32), 0x3f80, np.uint16), np.eye(32, dtype=np.uint8).reshape(32, 32, 1, 1), np.ones(32, np.float32)
results = [np.zeros((64, 9, 9, 32), np.float32) for _ in range(2)]
_xnor.binary_conv(x, negative, scale, scale, 1, 0, results[0])
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)  # room for the stacks of a dozen threads
_xnor.binary_conv(x, negative, scale, scale, 1, 0, results[1], threads=1000)
assert (results[0] == 31).all() and (results[1] == 31).all()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_layer_goes_on_with_the_threads_that_the_system_has():
    done = subprocess.run([sys.executable, "-c", FEW_THREADS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_batches_threads_and_kernels_give_the_same_bits():
    network, spec = NETWORKS["nin"]
    torch.manual_seed(2)
    model = unsettle(network())
    images = pixels(5, spec.shape)
    logits = run(freeze(model, spec), images)
    one_by_one = freeze(model, spec, threads=2)
    assert torch.equal(torch.cat([run(one_by_one, image) for image in images.split(1)]), logits)
    for kernel in _xnor.kernels():
        assert torch.equal(run(freeze(model, spec, kernel), images[:1]), logits[:1])
    assert freeze(model, spec)(images[:0].numpy()).shape == (0, 10)


def chains():
    """Chains that no network here has: batch norm that turns signs, in front of pools; pools between floats; two binary layers in a row."""
    c = nn.Conv2d
    yield nn.Sequential(
        c(2, 37, 3, padding=1), nn.BatchNorm2d(37), nn.MaxPool2d(2), BinConv2d(37, 9, 3, padding=1), nn.Flatten(), nn.Linear(144, 5)
    )
    yield nn.Sequential(
        c(2, 8, 3),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        BinConv2d(8, 70, 2),
        BinConv2d(70, 3, 1),
        nn.AdaptiveAvgPool2d(1),
    )
    yield nn.Sequential(BinConv2d(2, 40, 3, stride=2), nn.BatchNorm2d(40), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2, 1), nn.BatchNorm2d(40),
                        nn.ReLU(), nn.MaxPool2d(2, 1), BinLinear(40, 11, norm_channels=40), nn.Dropout())  # fmt: skip
    yield nn.Sequential(
        c(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), c(6, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(1)
    )  # nothing binary


@pytest.mark.parametrize("i", range(4))
def test_any_chain_of_known_layers_freezes_as_a_whole(i):
    torch.manual_seed(i)
    model = unsettle(list(chains())[i], seed=i)
    x = torch.randn(6, 2, 8, 8)
    torch.testing.assert_close(run(as_a_whole(model, (2, 8, 8)), x), predict(model, x).flatten(1), rtol=1e-4, atol=1e-4)


def test_a_channel_whose_scale_is_zero_is_a_constant():
    model = unsettle(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.MaxPool2d(2), BinConv2d(4, 6, 1)))
    with torch.no_grad():
        model[1].weight[:] = torch.tensor([0.0, 0.0, -1.0, 1.0])
        model[1].bias[:] = torch.tensor([5.0, -5.0, 0.1, 0.1])
    x = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(run(as_a_whole(model, (1, 6, 6)), x), predict(model, x).flatten(1), rtol=1e-4, atol=1e-4)


class Shortcuts(nn.Module):
    """Every kind of shortcut: past one block and past two, pooled, repeated, in either order of the sum."""

    def __init__(self, slope=0.25):
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3)
        self.one, self.two = (BinConv2d(20, 20, 3, padding=1, activation=nn.PReLU(n, slope)) for n in (1, 20))
        self.three = BinConv2d(20, 60, 3, stride=2, padding=1, activation=nn.PReLU(60, slope))
        self.pool, self.same, self.rectify = nn.AvgPool2d(2), nn.Identity(), nn.PReLU(60, slope)
        self.norm, self.four = nn.BatchNorm2d(60), BinConv2d(60, 60, 1, estimator="none")
        self.head = BinLinear(60 * 16, 7, norm_channels=60)

    def forward(self, x):
        x = self.stem(x)
        y = self.same(x) + self.one(x)
        y = self.two(y) + x  # past both
        y = self.three(y) + torch.cat([self.pool(y)] * 3, 1)
        return self.head(self.rectify(self.four(self.norm(y)) + y))


@pytest.mark.parametrize("kernel", _xnor.kernels())
@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5])
def test_shortcuts_freeze_as_a_whole(kernel, slope):
    torch.manual_seed(3)
    model = unsettle(Shortcuts())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.PReLU):
                module.weight += slope
    x = torch.randn(4, 3, 10, 10)
    frozen, expected = as_a_whole(model, (3, 10, 10), kernel=kernel), predict(model, x)
    torch.testing.assert_close(run(frozen, x) / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


class Gate(nn.Module):
    """What is no shortcut: two branches that meet in a product."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 40, 3), BinConv2d(40, 40, 3, padding=1), BinLinear(40, 7, norm_channels=40)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x * self.block(x)).mean((2, 3), keepdim=True))


def test_a_network_that_is_no_chain_is_packed_layer_by_layer():
    torch.manual_seed(3)
    model = unsettle(Gate())
    with pytest.raises(NotAChainError):
        chain(model)
    frozen = freeze_layers(model)
    assert isinstance(frozen.block, FrozenLayer)
    x = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), predict(model, x), rtol=1e-4, atol=1e-4)


def test_layers_packed_one_by_one_take_half_precision():
    torch.manual_seed(3)
    frozen, x = freeze_layers(unsettle(Gate())), torch.randn(4, 3, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = frozen(x)
    assert y.shape == (4, 7) and y.dtype == torch.float32 and y.isfinite().all()


class Sum(Gate):
    def forward(self, x):
        x = self.stem(x)
        return self.head((self.block(x) + self.block(x)).mean((2, 3), keepdim=True))


def test_two_branches_that_meet_in_a_sum_are_no_shortcut():
    torch.manual_seed(3)
    model = unsettle(Sum())
    x = torch.randn(4, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(freeze_layers(model)(x), predict(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 32, 31), np.uint8), np.zeros((3, 32, 32), np.float32), np.zeros((1, 3, 32, 32))]
)
def test_images_of_another_kind_are_refused(images):
    network, spec = NETWORKS["nin"]
    with pytest.raises(ValueError, match="expected uint8 or float32"):
        freeze(network().eval(), spec)(images)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["xnor.0.weight", "xnor.6.conv.weight", "xnor.6.bn.running_var"])
def test_weights_that_are_no_numbers_are_refused(key, value):
    network, spec = NETWORKS["nin"]
    model = network().eval()
    model.state_dict()[key].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{key} holds NaN"):
        freeze(model, spec)


def test_a_network_needs_an_output_for_each_class():
    network, spec = NETWORKS["nin"]
    with pytest.raises(ValueError, match="10 outputs for 9 classes"):
        freeze(network().eval(), replace(spec, classes=spec.classes[:9]))
