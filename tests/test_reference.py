"""Tensors recorded from XNOR-Net-PyTorch, where somebody has them: XNOR_REFERENCE=DIR of LeNet_5_reference.pt, binop_edge_cases.pt."""
import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.scripts import load_script
from util.binop import BinOp, binarize, binarize_backward, centre_and_clamp
from util.layers import BinActive

DIRECTORY = os.environ.get("XNOR_REFERENCE")
pytestmark = pytest.mark.skipif(not DIRECTORY, reason="set XNOR_REFERENCE to a folder of tensors recorded from XNOR-Net-PyTorch")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def reference(name):
    return torch.load(Path(DIRECTORY) / name, weights_only=True)


def compare(sample, tensor):
    torch.testing.assert_close(tensor.detach().flatten()[:256], sample["first256"].to(tensor.dtype), **TOLERANCE)
    torch.testing.assert_close(tensor.detach().double().norm(), sample["norm"].double(), rtol=1e-5, atol=1e-5)


def below_the_pool(name):
    """Whether a gradient passes pool2: sums of +-alpha tie there, and rounding, another one on each machine, picks the winner."""
    return name.startswith(("conv1", "bn_conv1", "bin_conv2")) and name != "bin_conv2.conv.bias"


def test_lenet_forward_gradients_and_an_adam_step():
    ref = reference("LeNet_5_reference.pt")
    model = load_script("MNIST/main.py").LeNet5(estimator="clip")
    model.load_state_dict(ref["state_dict"])
    bin_op = BinOp(model)
    model.eval()
    with torch.no_grad(), bin_op.binarized():
        torch.testing.assert_close(model(ref["input"]), ref["logits_eval"], **TOLERANCE)
    adam = ref["adam"]
    optimizer = torch.optim.Adam(model.parameters(), lr=adam["lr"], weight_decay=adam["weight_decay"], betas=adam["betas"], eps=adam["eps"])
    model.train()
    parameters = dict(model.named_parameters())
    with bin_op.binarized():
        for name in ref["target_names"]:
            compare(ref["binarised_weights_sample"][name], parameters[name])
        logits = model(ref["input"])
        loss = F.cross_entropy(logits, ref["target"])
        loss.backward()
    torch.testing.assert_close(loss, ref["train_loss"], **TOLERANCE)
    torch.testing.assert_close(logits, ref["train_logits"], **TOLERANCE)
    for name, sample in ref["restored_weights_sample"].items():
        compare(sample, parameters[name])
    for rule in ("raw", "updated"):
        if rule == "updated":
            bin_op.updateBinaryGradWeight()
        for name, sample in ref[f"grads_{rule}_sample"].items():
            if below_the_pool(name):
                torch.testing.assert_close(parameters[name].grad.double().norm(), sample["norm"], rtol=0.05, atol=1e-4)
            else:
                compare(sample, parameters[name].grad)
    optimizer.step()
    for name, sample in ref["state_after_step_sample"].items():
        if name in parameters and not below_the_pool(name):
            clear = parameters[name].grad.flatten()[:256].abs() > 1e-6  # Adam's first step makes +-lr of any gradient, rounding included
            found = parameters[name].detach().flatten()[:256]
            torch.testing.assert_close(found[clear], sample["first256"][clear], **TOLERANCE)
        elif "running" in name:
            compare(sample, model.state_dict()[name])


def test_activation():
    ref = reference("binop_edge_cases.pt")
    x = ref["binactive_x"].clone().requires_grad_()
    y = BinActive.apply(x)
    y.backward(ref["binactive_upstream"])
    known = x.detach() != 0  # sign(0) is +1 here, 0 there
    known &= ~x.detach().isnan()
    assert torch.equal(y[known], ref["binactive_y"][known])
    assert torch.equal(x.grad[known], ref["binactive_grad"][known])


def test_edge_cases_of_the_weights():
    ref = reference("binop_edge_cases.pt")
    for name in ref["names"]:
        before, restored, grad = ref["before"][name], ref["restored"][name], ref["grad_in"][name]
        latent = centre_and_clamp(before)
        torch.testing.assert_close(latent, restored, **TOLERANCE)
        nonzero = restored != 0  # as above
        torch.testing.assert_close(binarize(latent)[nonzero], ref["binarised"][name][nonzero], **TOLERANCE)
        factor = (1 - 1 / before.shape[1]) * before[0].numel()
        filters = nonzero.flatten(1).all(1)  # a zero's sign enters the gradient of its whole filter
        torch.testing.assert_close((binarize_backward(restored, grad) * factor)[filters], ref["grad_out"][name][filters], **TOLERANCE)
        filters = (before.abs() <= 1).flatten(1).all(1)  # there, one weight beyond +-1 stops the gradient of its whole filter
        updated = binarize_backward(before, grad) * factor
        torch.testing.assert_close(updated[filters], ref["grad_out_unclamped"][name][filters], **TOLERANCE)
