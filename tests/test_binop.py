"""BinOp's algebra against written formulas, autograd in float64, and a plain transcription of XNOR-Net-PyTorch's rules."""
import pytest
import torch
from torch import nn

from util.binop import BinOp, binarize, binarize_backward, centre_and_clamp, dequantize, latent_names, quantize
from util.layers import BinConv2d, BinLinear, sign

SHAPES = [(6, 4, 3, 3), (5, 6, 3, 2), (7, 8), (3, 1, 1, 1)]


def small_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BinConv2d(8, 6, 3, padding=1), BinLinear(6 * 16, 10, norm_channels=6), nn.Linear(10, 4))
    net(torch.randn(16, 3, 6, 6))  # real batch-norm statistics
    return net


@pytest.mark.parametrize("shape", SHAPES)
def test_binarized_weight_is_the_filters_mean_magnitude_times_its_sign(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight.view(-1)[0] = 0.0
    result = binarize(weight)
    for i, filter_ in enumerate(weight):
        values = filter_.flatten().tolist()
        alpha = sum(abs(v) for v in values) / len(values)
        expected = [alpha if v >= 0 else -alpha for v in values]
        assert result[i].flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_sign_of_zeros_and_nan_is_plus_one():
    x = torch.tensor([0.0, -0.0, float("nan"), 1e-45, -1e-45, float("inf"), -float("inf")])
    assert sign(x).tolist() == [1, 1, 1, 1, -1, 1, -1]
    assert sign(x.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", SHAPES)
def test_corrected_gradient_is_that_of_autograd(shape):
    """C = <g, alpha(w) sign(w)> with a straight-through sign, differentiated by autograd in float64."""
    g = torch.Generator().manual_seed(2)
    weight = (1.5 * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()  # some beyond +-1
    upstream = torch.randn(shape, generator=g, dtype=torch.float64)

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sign()

        @staticmethod
        def backward(ctx, grad):
            return grad * (ctx.saved_tensors[0].abs() <= 1)

    dims = tuple(range(1, weight.dim()))
    (weight.abs().mean(dims, keepdim=True) * StraightThrough.apply(weight) * upstream).sum().backward()
    torch.testing.assert_close(binarize_backward(weight.detach(), upstream), weight.grad, rtol=1e-12, atol=1e-14)


def test_the_papers_own_gradient_is_not_autograds():
    """Why the correction is there: with one term of the sum only, alpha's part is off by far more than rounding."""
    g = torch.Generator().manual_seed(3)
    weight, upstream = torch.randn(4, 30, generator=g), torch.randn(4, 30, generator=g)
    n, alpha = 30, weight.abs().mean(1, keepdim=True)
    paper = upstream * (1 / n + alpha * (weight.abs() <= 1))
    assert (paper - binarize_backward(weight, upstream)).abs().max() > 0.01


def test_update_multiplies_by_the_centring_factor_and_the_filter_size():
    net = small_net()
    bin_op = BinOp(net)
    for weight in bin_op.weights:
        weight.grad = torch.randn_like(weight)
    expected = [binarize_backward(w.detach(), w.grad) * (1 - 1 / w.shape[1]) * w[0].numel() for w in bin_op.weights]
    bin_op.updateBinaryGradWeight()
    for weight, value in zip(bin_op.weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, value)


def test_training_writes_centred_clamped_weights_as_xnor_net_pytorch_does():
    net = small_net().train()
    bin_op = BinOp(net)
    with torch.no_grad():
        bin_op.weights[0].mul_(20)  # beyond the clamp
        net[1].bn.weight[0] = -0.3
    latent = [weight.detach().clone() for weight in bin_op.weights]
    with bin_op.binarized():
        for weight, before in zip(bin_op.weights, latent, strict=True):
            torch.testing.assert_close(weight.detach(), binarize(centre_and_clamp(before)))
    for weight, before in zip(bin_op.weights, latent, strict=True):
        assert torch.equal(weight, (before - before.mean(1, keepdim=True)).clamp(-1, 1))
    assert net[1].bn.weight[0].item() == pytest.approx(0.01)


def test_evaluation_leaves_every_bit_of_the_model_unchanged():
    net = small_net().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    bin_op = BinOp(net)
    for _ in range(2):
        with torch.no_grad(), bin_op.binarized():
            first = net(torch.ones(2, 3, 6, 6))
    with torch.no_grad(), bin_op.binarized():
        assert torch.equal(first, net(torch.ones(2, 3, 6, 6)))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_weights_come_back_even_if_forward_raises():
    net = small_net().eval()
    bin_op = BinOp(net)
    before = [weight.clone() for weight in bin_op.weights]
    with pytest.raises(ZeroDivisionError), bin_op.binarized():
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(before, bin_op.weights, strict=True))
    bin_op.binarization()  # and it can be used again
    bin_op.restore()


def test_wrong_order_of_calls_is_refused():
    bin_op = BinOp(small_net())
    with pytest.raises(RuntimeError, match="nothing to restore"):
        bin_op.restore()
    bin_op.binarization()
    with pytest.raises(RuntimeError, match="binarized already"):
        bin_op.binarization()
    with pytest.raises(RuntimeError, match="restore"):
        bin_op.updateBinaryGradWeight()


def test_only_the_binarized_blocks_are_touched():
    net = small_net().eval()
    bin_op = BinOp(net)
    assert [id(w) for w in bin_op.weights] == [id(net[1].conv.weight), id(net[2].linear.weight)]
    first, last = net[0].weight.clone(), net[3].weight.clone()
    with bin_op.binarized():
        assert torch.equal(net[0].weight, first) and torch.equal(net[3].weight, last)
        assert net[1].conv.weight[0].abs().unique().numel() == 1


@pytest.mark.parametrize("scale", [0.05, 0.7])  # the latter's weights are clamped
@pytest.mark.parametrize("shape", [(6, 16, 3, 3), (5, 33, 1, 1), (7, 81), (3, 9, 5, 2), (40, 2, 3, 3)])
def test_a_weight_kept_in_8_bits_binarizes_to_the_same_weight(shape, scale):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4)) * scale + 0.1
    kept = quantize(weight)
    assert kept["codes"].dtype == torch.int8 and kept["codes"].shape == shape and kept["step"].numel() == shape[0]
    expected, found = (binarize(centre_and_clamp(w)) for w in (weight, dequantize(kept)))
    assert torch.equal(sign(expected), sign(found))
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    # and what training goes on from is near: half a step, and what centring does with it
    latent, again = centre_and_clamp(weight), centre_and_clamp(dequantize(kept))
    step = kept["step"].view(-1, *[1] * (len(shape) - 1))
    assert ((latent - again).abs() <= 1.02 * step).all()


ROUND = [torch.zeros(3, 4, 1, 1), torch.full((2, 5), 0.3), torch.tensor([[1.0, 2.0, 3.0, -6.0]]), torch.ones(2, 1, 3, 3)]


@pytest.mark.parametrize("weight", ROUND)
def test_zeros_and_round_numbers_keep_their_signs_in_8_bits(weight):
    expected, found = (binarize(centre_and_clamp(w)) for w in (weight, dequantize(quantize(weight))))
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)


def test_codes_that_do_not_fit_are_refused():
    kept = quantize(torch.randn(4, 6, 3, 3))
    integers, flat = torch.ones(4, dtype=torch.int64), torch.ones(4, dtype=torch.int8)
    for wrong in ({"step": torch.ones(5)}, {"step": integers}, {"codes": kept["codes"].float()}, {"codes": flat}):
        with pytest.raises(ValueError, match="do not make a weight"):
            dequantize({**kept, **wrong})


def test_latent_names_are_the_keys_of_binops_weights():
    net = small_net()
    assert latent_names(net) == ["1.conv.weight", "2.linear.weight"]
    assert all(dict(net.named_parameters())[name] is weight for name, weight in zip(latent_names(net), BinOp(net).weights, strict=True))
