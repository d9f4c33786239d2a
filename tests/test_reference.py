"""The same numbers as XNOR-Net-PyTorch: tests/reference/*.npz holds what that program computed, run unchanged but for a static BinActive.

LeNet_5.npz: a LeNet_5 after 30 steps (of its binarized weights the signs and scales, and the first filter as it is), a batch, its
logits, loss, gradients (32 values and the norm) and one Adam step. binop.npz: weights at the edges of the rules, such as beyond +-1.
"""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.scripts import ROOT, load_script
from util.binop import binarize, binarize_backward, centre_and_clamp
from util.layers import MIN_BN_WEIGHT, BinActive

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LINEAR, CONV = "bin_ip1.linear.weight", "bin_conv2.conv.weight"  # the binarized weights


def recorded(name):
    with np.load(ROOT / "tests" / "reference" / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture
def ref():
    return recorded("LeNet_5.npz")


@pytest.fixture
def model(ref):
    """The recorded LeNet_5, its weights binarized."""
    model = load_script("MNIST/main.py").LeNet5(estimator="clip")
    state = {key.removeprefix("state/"): value for key, value in ref.items() if key.startswith("state/")}
    for name, latent in ((CONV, model.bin_conv2.latent_weight), (LINEAR, model.bin_ip1.latent_weight)):
        negative = torch.from_numpy(np.unpackbits(ref[f"negative/{name}"].numpy(), count=latent.numel())).view(latent.shape)
        state[name] = ref[f"alpha/{name}"].view(-1, *[1] * (latent.dim() - 1)) * (1 - 2 * negative.float())
    model.load_state_dict(state)
    return model


def compare(ref, kind, name, tensor):
    values = ref[f"{kind}/{name}"]
    torch.testing.assert_close(tensor.detach().flatten()[: len(values)], values, **TOLERANCE)


def below_the_pool(name):
    """Whether a gradient passes pool2: sums of +-alpha tie there, and rounding, another one on each machine, picks the winner."""
    return name.startswith(("conv1", "bn_conv1", "bin_conv2")) and name != "bin_conv2.conv.bias"


def test_lenet_evaluates_to_the_recorded_logits(ref, model):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ref["input"]), ref["logits_eval"], **TOLERANCE)


@pytest.mark.parametrize("name", [CONV, LINEAR])
def test_a_filter_is_binarized_and_restored_as_recorded(ref, model, name):
    latent = centre_and_clamp(ref[f"latent/{name}"])
    compare(ref, "restored_weights", name, latent)
    compare(ref, "binarised_weights", name, binarize(latent))
    torch.testing.assert_close(binarize(latent)[0], dict(model.named_parameters())[name][0].detach(), **TOLERANCE)


def test_loss_gradients_and_an_adam_step_are_the_recorded_ones(ref, model):
    with torch.no_grad():
        for block in (model.bin_conv2, model.bin_ip1):
            block.bn.weight.clamp_(min=MIN_BN_WEIGHT)  # as BinOp does at the start of a training step
    parameters = dict(model.train().named_parameters())
    logits = model(ref["input"])
    loss = F.cross_entropy(logits, ref["target"])
    loss.backward()
    torch.testing.assert_close(loss, ref["train_loss"], **TOLERANCE)
    torch.testing.assert_close(logits, ref["train_logits"], **TOLERANCE)
    for name, parameter in parameters.items():
        norm = parameter.grad.double().norm()
        if below_the_pool(name):
            torch.testing.assert_close(norm, ref[f"grads_raw_norm/{name}"], rtol=0.05, atol=1e-4)
        else:
            compare(ref, "grads_raw", name, parameter.grad)
            torch.testing.assert_close(norm, ref[f"grads_raw_norm/{name}"], **TOLERANCE)

    latent = nn.Parameter(centre_and_clamp(ref[f"latent/{LINEAR}"]))  # the first filter stands for its layer
    size = latent.shape[1]
    latent.grad = binarize_backward(latent.detach(), parameters[LINEAR].grad[:1]) * (1 - 1 / size) * size
    compare(ref, "grads_updated", LINEAR, latent.grad)
    learning = {name: parameter for name, parameter in parameters.items() if not below_the_pool(name)} | {LINEAR: latent}
    lr, beta1, beta2, eps, weight_decay = ref["adam"].tolist()
    torch.optim.Adam(learning.values(), lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay).step()
    compared = 0
    for name, parameter in learning.items():
        values = ref[f"state_after_step/{name}"]
        clear = parameter.grad.flatten()[: len(values)].abs() > 1e-6  # Adam's first step makes +-lr of any gradient, rounding included
        compared += int(clear.sum())
        torch.testing.assert_close(parameter.detach().flatten()[: len(values)][clear], values[clear], **TOLERANCE)
    assert compared > 100
    for name, value in model.state_dict().items():
        if "running" in name:
            compare(ref, "state_after_step", name, value)


def test_activation():
    ref = recorded("binop.npz")
    x = ref["binactive_x"].clone().requires_grad_()
    y = BinActive.apply(x)
    y.backward(ref["binactive_upstream"])
    known = x.detach() != 0  # sign(0) is +1 here, 0 there
    known &= ~x.detach().isnan()
    assert torch.equal(y[known], ref["binactive_y"][known])
    assert torch.equal(x.grad[known], ref["binactive_grad"][known])


@pytest.mark.parametrize("name", ["1.weight", "2.weight", "3.weight"])
def test_edge_cases_of_the_weights(name):
    ref = recorded("binop.npz")
    before, restored, grad = (ref[f"{kind}/{name}"] for kind in ("before", "restored", "grad_in"))
    latent = centre_and_clamp(before)
    torch.testing.assert_close(latent, restored, **TOLERANCE)
    nonzero = restored != 0  # as above
    torch.testing.assert_close(binarize(latent)[nonzero], ref[f"binarised/{name}"][nonzero], **TOLERANCE)
    factor = (1 - 1 / before.shape[1]) * before[0].numel()
    filters = nonzero.flatten(1).all(1)  # a zero's sign enters the gradient of its whole filter
    torch.testing.assert_close((binarize_backward(restored, grad) * factor)[filters], ref[f"grad_out/{name}"][filters], **TOLERANCE)
    filters = (before.abs() <= 1).flatten(1).all(1)  # there, one weight beyond +-1 stops the gradient of its whole filter
    updated = binarize_backward(before, grad) * factor
    torch.testing.assert_close(updated[filters], ref[f"grad_out_unclamped/{name}"][filters], **TOLERANCE)
