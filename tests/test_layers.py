"""The binarized blocks against torch.nn.functional, and their gradients against the written estimators."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from util.layers import BinActive, BinActivePolynomial, BinActiveWide, BinConv2d, BinLinear, anneal_sign, freeze_batch_norm

X = torch.tensor([-2.0, -1.0, -0.999, -0.5, -0.0, 0.0, 0.25, 0.999, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(("function", "slope"), [
    (BinActive, lambda x: 1.0 if abs(x) < 1 else 0.0),
    (BinActivePolynomial, lambda x: max(0.0, 2 - 2 * abs(x))),
    (BinActiveWide, lambda x: max(0.0, 1 - abs(x) / 3)),
])  # fmt: skip
def test_activation_is_the_sign_with_the_estimators_slope(function, slope):
    x = X.clone().requires_grad_()
    upstream = torch.arange(1.0, 11.0, dtype=torch.float64)
    y = function.apply(x)
    (y * upstream).sum().backward()
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1]
    assert x.grad.tolist() == pytest.approx([u * slope(v) for u, v in zip(upstream.tolist(), X.tolist(), strict=True)])


@pytest.mark.parametrize("training", [True, False])
def test_bin_conv_is_batch_norm_sign_convolution_relu(training):
    torch.manual_seed(0)
    block = BinConv2d(5, 7, 3, stride=2, padding=1).train(training)
    x = torch.randn(4, 5, 9, 9)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    if not training:
        mean, var = torch.zeros(5), torch.ones(5)
    signs = torch.where((x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-4).sqrt() >= 0, 1.0, -1.0)
    expected = F.relu(F.conv2d(signs, block.conv.weight, block.conv.bias, 2, 1))  # zero padding after the sign
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_bin_linear_normalises_maps_and_then_flattens():
    torch.manual_seed(0)
    block = BinLinear(5 * 4, 3, norm_channels=5).eval()
    with torch.no_grad():
        block.bn.bias.copy_(torch.linspace(-1, 1, 5))
    x = torch.randn(6, 5, 2, 2)
    signs = torch.where(x / (1 + 1e-4) ** 0.5 + block.bn.bias.view(1, -1, 1, 1) >= 0, 1.0, -1.0)
    torch.testing.assert_close(block(x), F.relu(F.linear(signs.flatten(1), block.linear.weight, block.linear.bias)))


def test_batch_norm_weight_acts_as_at_least_a_hundredth_and_forward_changes_nothing():
    block = BinConv2d(2, 2, 1).eval()
    with torch.no_grad():
        block.bn.weight.copy_(torch.tensor([-5.0, 0.001]))
        block.bn.bias.zero_()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).view(2, 2, 1, 1)
    assert torch.equal(block._activate(x), x)  # the sign of x, not of -5 x
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


def test_batch_norm_weight_below_the_minimum_still_learns():
    block = BinConv2d(1, 1, 1).train()
    with torch.no_grad():
        block.bn.weight.fill_(-1.0)
    block(torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(0)).mul(0.1)).sum().backward()
    assert block.bn.weight.grad.abs().item() > 0


def test_without_an_estimator_activations_stay_floats():
    torch.manual_seed(0)
    block = BinConv2d(3, 4, 3, padding=1, estimator="none").eval()
    x = torch.randn(2, 3, 6, 6)
    expected = F.relu(F.conv2d(x / (1 + 1e-4) ** 0.5, block.conv.weight, block.conv.bias, 1, 1))
    torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-5)


def test_the_activation_is_what_it_is_given():
    block = BinConv2d(3, 4, 1, activation=nn.PReLU(4, init=0.3)).eval()
    x = torch.randn(2, 3, 5, 5)
    plain = F.conv2d(torch.where(x < 0, -1.0, 1.0), block.conv.weight, block.conv.bias)
    torch.testing.assert_close(block(x), torch.where(plain < 0, 0.3 * plain, plain), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_annealed_activations_are_between_a_clamp_and_a_sign(share):
    block = nn.Sequential(BinConv2d(1, 1, 1, estimator="wide")).double().eval()
    anneal_sign(block, share)
    x = X.view(-1, 1, 1, 1).clone().requires_grad_()
    y = block[0]._activate(x)
    v = X / (1 + 1e-4) ** 0.5
    expected = share * v.clamp(-1.5, 1.5) + (1 - share) * torch.where(v < 0, -1.0, 1.0)
    torch.testing.assert_close(y.flatten(), expected)
    y.sum().backward()
    slope = share * (v.abs() <= 1.5) + (1 - share) * (1 - v.abs() / 3).clamp(min=0)
    torch.testing.assert_close(x.grad.flatten(), slope / (1 + 1e-4) ** 0.5)
    assert set(block.state_dict()) == set(nn.Sequential(BinConv2d(1, 1, 1)).state_dict())  # the share is not kept


def test_frozen_batch_norms_use_their_running_statistics_and_keep_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(4), BinConv2d(4, 3, 1)).train()
    net(torch.randn(8, 4, 5, 5) * 3 + 1)
    freeze_batch_norm(net, True)
    before = {name: value.clone() for name, value in net.named_buffers()}
    x = torch.randn(8, 4, 5, 5).requires_grad_()
    found = net(x)
    found.sum().backward()
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
    assert net.training and net[1].bn.weight.grad.abs().sum() > 0  # and weights go on learning
    torch.testing.assert_close(found, net.eval()(x))
    freeze_batch_norm(net.train(), False)
    net(x)
    assert not torch.equal(before["0.running_mean"], net[0].running_mean)
