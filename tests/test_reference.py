"""Tensors recorded from XNOR-Net-PyTorch itself, where somebody has them: XNOR_REFERENCE=DIR with LeNet_5_reference.pt, binop_edge_cases.pt."""
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
    torch.testing.assert_close(tensor.detach().double().norm(), sample["norm"], rtol=1e-5, atol=1e-5)


def test_lenet_forward_gradients_and_two_adam_steps():
    ref = reference("LeNet_5_reference.pt")
    model = load_script("MNIST/main.py").LeNet_5()
    model.load_state_dict(ref["state_dict"])
    bin_op = BinOp(model)
    model.eval()
    with torch.no_grad(), bin_op.binarized():
        torch.testing.assert_close(model(ref["input"]), ref["logits_eval"], **TOLERANCE)
    adam = ref["adam"]
    optimizer = torch.optim.Adam(model.parameters(), lr=adam["lr"], weight_decay=adam["weight_decay"], betas=adam["betas"], eps=adam["eps"])
    model.train()
    parameters = dict(model.named_parameters())
    for step, suffix in enumerate(["", "2"]):
        optimizer.zero_grad()
        with bin_op.binarized():
            if step == 0:
                for name in ref["target_names"]:
                    compare(ref["binarised_weights_sample"][name], parameters[name])
            logits = model(ref["input"])
            loss = F.cross_entropy(logits, ref["target"])
            loss.backward()
        torch.testing.assert_close(loss, ref["train_loss_step2" if suffix else "train_loss"], **TOLERANCE)
        if step == 0:
            torch.testing.assert_close(logits, ref["train_logits"], **TOLERANCE)
            for name, sample in ref["restored_weights_sample"].items():
                compare(sample, parameters[name])
            for name, sample in ref["grads_raw_sample"].items():
                compare(sample, parameters[name].grad)
        bin_op.updateBinaryGradWeight()
        if step == 0:
            for name, sample in ref["grads_updated_sample"].items():
                compare(sample, parameters[name].grad)
        optimizer.step()
        state = model.state_dict()
        for name, sample in ref[f"state_after_step{suffix}_sample"].items():
            compare(sample, state[name])


def test_activation():
    ref = reference("LeNet_5_reference.pt")
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
        if not nonzero.all():
            continue  # a zero's sign also enters its filter's gradient
        factor = (1 - 1 / before.shape[1]) * before[0].numel()
        torch.testing.assert_close(binarize_backward(restored, grad) * factor, ref["grad_out"][name], **TOLERANCE)
        torch.testing.assert_close(binarize_backward(before, grad) * factor, ref["grad_out_unclamped"][name], **TOLERANCE)


