"""What a compiled training step on the CPU computes in another way than torch, beside torch."""
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from util.binop import BinOp
from util.errors import InputError
from util.layers import BinConv2d, PositiveBatchNorm2d, anneal_sign, freeze_batch_norm
from util.train import cpu_ops


@pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_max_pooling_that_stays_out_of_the_compiler_is_torchs(window):
    results = []
    for pool in (lambda x: cpu_ops.max_pool(x, *window)[0], lambda x: F.max_pool2d(x, *window)):
        x = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
        y = pool(x.requires_grad_())
        y.mul(torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append((y, x.grad))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results, strict=True))
    x = torch.randn(2, 4, 8, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(cpu_ops.max_pool, (x, *window))


def signs(shape, generator):
    return torch.where(torch.randn(shape, generator=generator) < 0, -1.0, 1.0)


CONVOLUTIONS = [  # channels, outputs, size, stride, padding, height, width
    (3, 7, 3, 1, 1, 5, 4), (33, 40, 5, 1, 2, 8, 8), (16, 70, 3, 2, 1, 9, 7), (160, 96, 1, 1, 0, 6, 6), (1, 1, 4, 3, 3, 4, 4),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counted_bits_are_torchs_convolution(case, dtype, monkeypatch):
    channels, outputs, size, stride, padding, height, width = case
    generator = torch.Generator().manual_seed(0)
    x = signs((3, channels, height, width), generator).to(dtype).contiguous(memory_format=torch.channels_last)
    alpha, bias = torch.rand(outputs, 1, 1, 1, generator=generator), torch.randn(outputs, generator=generator)
    weight = alpha * signs((outputs, channels, size, size), generator)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    found = cpu_ops._binary_conv(x, weight, bias, stride, padding)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    error = (found.double() - expected).abs()
    assert (error <= expected.abs() * (2**-8 if dtype == torch.bfloat16 else 1e-6) + 1e-6).all()  # rounded once
    for n, images in enumerate(x.split(1)):
        assert torch.equal(cpu_ops._binary_conv(images, weight, bias, stride, padding), found[n : n + 1])  # not by batch
    with monkeypatch.context() as patch:
        patch.setattr(cpu_ops, "_openmp", lambda: 0)  # threads of its own
        assert torch.equal(cpu_ops._binary_conv(x, weight, bias, stride, padding), found)
    torch.library.opcheck(cpu_ops._binary_conv, (x, weight, bias, stride, padding))


@pytest.mark.parametrize("x_shape", [(3, 5, 4, 2), (2, 5, 8, 8)])  # a small map's gradient is found in another way
@pytest.mark.parametrize("w_shape, stride, padding", [((7, 5, 3, 3), 1, 1), ((4, 5, 1, 1), 1, 0), ((4, 5, 4, 4), 2, 2)])
@pytest.mark.parametrize("count", [False, True])
def test_gradients_of_the_binary_convolution_are_torchs(x_shape, w_shape, stride, padding, count):
    generator, results = torch.Generator().manual_seed(0), []
    weight = torch.rand(w_shape[0], 1, 1, 1, generator=generator) * signs(w_shape, generator)
    given = [signs(x_shape, generator), weight, torch.randn(w_shape[0], generator=generator)]
    if not count:
        given = [value.double() for value in given]
    for convolve in (lambda *values: cpu_ops.BinaryConv.apply(*values, count, False), F.conv2d):
        inputs = [value.clone().requires_grad_() for value in given]
        y = convolve(*inputs, stride, padding)
        results.append([y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), inputs)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("case", [case for case in CONVOLUTIONS if case[1] > 1])
@pytest.mark.parametrize("unfolded", [1, 10_000, 2**23])  # bytes: image by image, some at a time, all at once
def test_int8_gradients_are_products_of_whole_numbers(case, unfolded, monkeypatch):
    channels, outputs, size, _, padding, height, width = case
    monkeypatch.setattr(cpu_ops, "UNFOLDED", unfolded)
    generator = torch.Generator().manual_seed(0)
    x, weight = signs((5, channels, height, width), generator), signs((outputs, channels, size, size), generator)
    levels = torch.randint(-127, 128, F.conv2d(x, weight, padding=padding).shape, generator=generator)
    same = None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, [True, True, False]
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(levels.double(), x.double(), weight.double(), *same)
    given = x.to(torch.int8), 0.3 * weight, levels.to(torch.int8), torch.tensor(0.25), padding, torch.float32
    found = cpu_ops._int8_products(*given)
    assert torch.equal(found[0].double(), of_x * 0.25) and torch.equal(found[1].double(), of_weight)
    torch.library.opcheck(cpu_ops._int8_products, given)


def test_int8_gradients_are_right_on_average_and_the_bias_is_exact():
    generator = torch.Generator().manual_seed(0)
    x = signs((4, 24, 6, 5), generator)
    weight = signs((16, 24, 3, 3), generator) * (0.5 + torch.rand(16, 1, 1, 1, generator=generator))
    grad = torch.randn(4, 16, 6, 5, generator=generator) * 10 ** (-3 * torch.rand(4, 1, 1, 1, generator=generator))
    same = [16], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True] * 3
    errors, sizes = [[], [], []], [[], [], []]
    for _ in range(200):  # gradients of 200 steps
        each = grad * (1 + 0.01 * torch.randn(grad.shape, generator=generator))
        exact = torch.ops.aten.convolution_backward(each.double(), x.double(), weight.double(), *same)
        for i, (mine, theirs) in enumerate(zip(cpu_ops._int8_gradients(x.to(torch.int8), weight, each, 1), exact, strict=True)):
            errors[i].append(mine.double() - theirs)
            sizes[i].append(theirs.norm())
    for some, size, bound in zip(errors, sizes, (0.03, 0.03, 1e-6), strict=True):
        assert max(error.norm() / norm for error, norm in zip(some, size, strict=True)) < bound
        assert (sum(some) / 200).norm() / size[0] < bound / 8  # they nearly cancel
    nothing = cpu_ops._int8_gradients(x.to(torch.int8), weight * 0, grad * 0, 1)
    assert not any(values.any() for values in nothing)


def test_a_layer_with_other_shapes_than_its_maps_is_refused():
    x, negative, one = np.zeros((2, 8, 8, 3), np.uint16), np.zeros((5, 3, 3, 3), np.uint8), np.ones(5, np.float32)
    for shape in ((2, 6, 6, 4), (1, 6, 6, 5), (2, 8, 8, 5)):
        with pytest.raises(ValueError, match="do not belong together"):
            cpu_ops._xnor.binary_conv(x, negative, one, one, 1, 0, np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="scale has 4"):
        cpu_ops._xnor.binary_conv(x, negative, one[:4].copy(), one, 1, 0, np.zeros((2, 6, 6, 5), np.float32))
    with pytest.raises(TypeError):
        cpu_ops._xnor.binary_conv(x, negative, one, one, 1, 0, np.zeros((2, 6, 6, 5), np.float64))
    with pytest.raises(ValueError, match="too large"):  # its height and the padding are more than an int holds
        cpu_ops._xnor.binary_conv(np.zeros((0, 2**31 - 1, 1, 3), np.uint16), negative, one, one, 1, 1, np.zeros((0, 6, 6, 5), np.float32))


def accelerated(model, **flags):
    """A copy of `model`, made of the faster layers."""
    return cpu_ops.accelerate(copy.deepcopy(model), **flags)


@pytest.mark.parametrize("popcount, int8, share, backend", [
    (True, True, 0, "inductor"),  # as trainings are; it calls a C++ compiler, which takes seconds, so the others are traced alone
    (False, False, 0, "aot_eager"), (True, False, 0, "aot_eager"), (False, True, 0, "aot_eager"), (True, True, 0.5, "aot_eager"),
])  # fmt: skip
def test_an_accelerated_and_compiled_step_learns_what_a_plain_one_does(popcount, int8, share, backend, monkeypatch):
    monkeypatch.setattr(cpu_ops, "LARGE_FILTER", 1)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.MaxPool2d(2), BinConv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), BinConv2d(6, 5, 5, 2, 2))
    anneal_sign(plain, share)
    fast, counted = accelerated(plain, popcount_forward=popcount, int8_gradients=int8), []
    native = cpu_ops._xnor.binary_conv
    monkeypatch.setattr(cpu_ops._xnor, "binary_conv", lambda *given, **how: (counted.append(1), native(*given, **how)))
    x = torch.randn(8, 4, 12, 12).contiguous(memory_format=torch.channels_last)
    for model, step in ((plain, plain), (fast, torch.compile(fast, dynamic=False, backend=backend))):
        with BinOp(model).binarized():
            step(x).square().mul(torch.arange(8.0).view(8, 1, 1, 1)).sum().backward()
    assert len(counted) == (2 if popcount and not share else 0)
    for (name, mine), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if int8 and not share:
            assert (mine.grad - theirs.grad).norm() < 0.02 * theirs.grad.norm() + 1e-2, name
        else:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-2, msg=name)
    torch.compiler.reset()


def test_an_accelerated_model_has_the_same_keys_and_tensors_and_evaluates_to_the_same_bits():
    torch.manual_seed(0)
    pools = nn.MaxPool2d(2), nn.MaxPool2d(3, 2, ceil_mode=True)
    plain = nn.Sequential(pools[0], BinConv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False), pools[1])
    plain(torch.randn(8, 4, 16, 16))
    before, x = dict(plain.state_dict(keep_vars=True)), torch.randn(5, 4, 16, 16)
    with torch.no_grad():
        expected = plain.eval()(x)
        fast = cpu_ops.accelerate(plain, popcount_forward=True, int8_gradients=True)
        assert torch.equal(fast(x), expected)
    after = fast.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[key] is value for key, value in before.items())
    assert len(BinOp(fast)._norms) == 1  # still found by what it is


def test_popcount_forward_without_the_native_part_is_refused(monkeypatch):
    monkeypatch.setattr(cpu_ops, "_xnor", None)
    with pytest.raises(InputError, match="make native"):
        cpu_ops.accelerate(nn.Sequential(), popcount_forward=True)
    cpu_ops.accelerate(nn.Sequential())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cls", [nn.BatchNorm2d, PositiveBatchNorm2d])
def test_batch_norm_by_rows_is_torchs(cls, frozen):
    torch.manual_seed(0)
    plain = nn.Sequential(cls(6, eps=1e-4))
    with torch.no_grad():
        for value in (plain[0].weight, plain[0].bias, plain[0].running_mean):
            value.copy_(torch.randn(6))
    fast = accelerated(plain)
    before = {name: value.clone() for name, value in plain.named_buffers()}
    x = (3 + 2 * torch.randn(4, 6, 5, 3)).contiguous(memory_format=torch.channels_last)
    upstream, results = torch.randn(4, 6, 5, 3), []
    for net in (fast, plain):
        freeze_batch_norm(net, frozen)
        value = x.clone().requires_grad_()
        net(value).mul(upstream).sum().backward()
        results.append([value.grad, net[0].weight.grad, net[0].bias.grad, net[0].running_mean, net[0].running_var])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert frozen == all(torch.equal(before[name], value) for name, value in fast.named_buffers())
