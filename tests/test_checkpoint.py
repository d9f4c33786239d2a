"""Checkpoints: what is written is read back; what is missing, cut, foreign or hostile is refused in one line."""
import math
import os
import pickle

import pytest
import torch
from torch import nn

from util.binop import binarize, centre_and_clamp, quantize
from util.errors import InputError
from util.layers import BinConv2d
from util.train import checkpoint


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def other(net):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def assert_refused(call, *words):
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_round_trip_is_exact(net, tmp_path):
    checkpoint.save(tmp_path / "a" / "net.pth.tar", {"arch": "x", "best_acc": 12.5, "state_dict": net.state_dict()})
    copy = other(net)
    assert checkpoint.load_into(copy, tmp_path / "a" / "net.pth.tar", "x")["best_acc"] == 12.5
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), copy.state_dict().values(), strict=True))
    assert os.listdir(tmp_path / "a") == ["net.pth.tar"]  # no temporary file stays


@pytest.mark.parametrize("key", ["acc", "best_acc"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_xnor_net_pytorch_load(net, tmp_path, key, prefix):
    torch.save({key: 77.0, "state_dict": {prefix + k: v for k, v in net.state_dict().items()}}, tmp_path / "f")
    copy = other(net)
    assert checkpoint.load_into(copy, tmp_path / "f", "x")["best_acc"] == 77
    assert torch.equal(copy[0].weight, net[0].weight)


def test_bare_state_dict_and_one_without_batch_counters_load(net, tmp_path):
    torch.save({k: v for k, v in net.state_dict().items() if "num_batches" not in k}, tmp_path / "f")
    checkpoint.load_into(other(net), tmp_path / "f", "x")


def test_missing_empty_text_and_truncated_files_are_refused(net, tmp_path):
    path = tmp_path / "f.pth.tar"
    assert_refused(lambda: checkpoint.load(path), str(path), "no such file")
    path.write_bytes(b"")
    assert_refused(lambda: checkpoint.load(path), str(path))
    path.write_text("<!DOCTYPE html>\n<html><body>a page that was saved by mistake</body></html>")
    assert_refused(lambda: checkpoint.load(path), str(path), "not a file of plain tensors", "another format")
    path.write_text("these are not weights")
    assert_refused(lambda: checkpoint.load(path), str(path))
    torch.save({"state_dict": net.state_dict()}, path)
    whole = path.read_bytes()
    for length in (1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(lambda: checkpoint.load(path), str(path))


def test_altered_bytes_never_escape_as_another_exception(net, tmp_path):
    torch.save({"state_dict": net.state_dict()}, tmp_path / "f")
    whole = bytearray((tmp_path / "f").read_bytes())
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        broken = bytearray(whole)
        for place in torch.randint(0, len(whole), (3,), generator=generator).tolist():
            broken[place] = int(torch.randint(0, 256, (1,), generator=generator))
        (tmp_path / "f").write_bytes(broken)
        try:
            checkpoint.load_into(other(net), tmp_path / "f", "x")
        except InputError:
            pass


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("the_code_ran",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"state_dict": {"a": Hostile()}}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load(tmp_path / "f"), "refused")
    assert not (tmp_path / "the_code_ran").exists()


def test_another_architecture_is_named(net, tmp_path):
    torch.save({"arch": "nin", "state_dict": net.state_dict()}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load_into(other(net), tmp_path / "f", "lenet"), "holds nin", "expected lenet")
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load_into(other(net), tmp_path / "f", "lenet"), "not a checkpoint of lenet", "0.bias")
    wrong = {**net.state_dict(), "0.weight": torch.ones(2, 1, 5, 5)}
    torch.save({"state_dict": wrong}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load_into(other(net), tmp_path / "f", "lenet"), "(2, 1, 5, 5)", "(2, 1, 3, 3)")


def test_a_failed_write_leaves_the_earlier_file(net, tmp_path, monkeypatch):
    path = tmp_path / "net.pth.tar"
    checkpoint.save(path, {"state_dict": net.state_dict(), "best_acc": 1.0})

    def full(value, file):
        file.write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(torch, "save", full)
    assert_refused(lambda: checkpoint.save(path, {"state_dict": {}, "best_acc": 2.0}), str(path), "disk full")
    assert checkpoint.load(path)["best_acc"] == 1.0 and os.listdir(tmp_path) == ["net.pth.tar"]


def test_weights_in_8_bits_load_as_weights_and_damaged_ones_are_refused(tmp_path):
    net = BinConv2d(8, 4, 3)
    state = {**net.state_dict(), "conv.weight": quantize(net.conv.weight)}
    checkpoint.save(tmp_path / "codes", {"arch": "x", "best_acc": 1.0, "state_dict": state})
    copy = BinConv2d(8, 4, 3)
    checkpoint.load_into(copy, tmp_path / "codes", "x")
    torch.testing.assert_close(*(binarize(centre_and_clamp(n.conv.weight)) for n in (net, copy)))
    checkpoint.save(tmp_path / "codes", {"state_dict": {**state, "conv.weight": {"codes": state["conv.weight"]["codes"]}}})
    assert_refused(lambda: checkpoint.load(tmp_path / "codes"), "codes", "can't be read")


def spoiled(value):
    return lambda w: w.index_fill(0, torch.tensor(0), value)


@pytest.mark.parametrize(("make", "words"), [
    (spoiled(float("nan")), "0.weight holds NaN or infinite"),
    (spoiled(float("-inf")), "0.weight holds NaN or infinite"),
    (lambda w: w.to_sparse(), "0.weight is sparse_coo"),
    (lambda w: w.to("meta"), "0.weight is without values"),
    (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "0.weight is quantized"),
    (lambda w: w.to(torch.complex64), "complex64"),
    (lambda w: w[:1, :1, :1, :1].expand(10**6, 10**6, 3, 3), "0.weight is (1000000, 1000000, 3, 3), but holds fewer numbers"),
    (lambda w: {"codes": torch.zeros(1, 1, dtype=torch.int8).expand(10**6, 10**6), "step": torch.ones(1)}, "0.weight.codes is (1000000, "),
    (lambda w: {"codes": torch.full((2, 9), 127, dtype=torch.int8), "step": torch.full((2,), 1e38)}, "NaN or infinite"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_can_not_be_weights_are_refused_in_one_line(net, tmp_path, make, words):
    torch.save({"state_dict": {**net.state_dict(), "0.weight": make(net[0].weight.detach())}}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load_into(other(net), tmp_path / "f", "x"), str(tmp_path / "f"), words)


@pytest.mark.parametrize("more", [{"arch": ["x"]}, {"state_dict": {1: torch.zeros(2), "0.weight": torch.zeros(2)}}])
def test_names_that_are_no_text_are_refused(net, tmp_path, more):
    torch.save({"state_dict": net.state_dict(), **more}, tmp_path / "f")
    assert_refused(lambda: checkpoint.load(tmp_path / "f"), "names that are no text")


@pytest.mark.parametrize("score", [None, "86.28%", [1], {}, torch.ones(3)])
def test_a_score_that_is_no_number_keeps_no_weights_from_being_read(net, tmp_path, score):
    torch.save({"best_acc": score, "state_dict": net.state_dict()}, tmp_path / "f")
    copy = other(net)
    assert math.isnan(checkpoint.load_into(copy, tmp_path / "f", "x")["best_acc"])
    assert torch.equal(copy[0].weight, net[0].weight)


def test_a_compiled_models_file_loads(net, tmp_path):
    torch.save({"state_dict": {f"module._orig_mod.{key}": value for key, value in net.state_dict().items()}}, tmp_path / "f")
    checkpoint.load_into(other(net), tmp_path / "f", "x")


def test_only_a_large_file_keeps_its_latent_weights_in_8_bits(monkeypatch):
    net = nn.Sequential(BinConv2d(8, 4, 3), nn.Linear(4, 2))
    state = net.state_dict()
    assert all(value is state[key] for key, value in checkpoint.compact(state, net).items())
    monkeypatch.setattr(checkpoint, "LARGEST", 100)
    assert [key for key, value in checkpoint.compact(state, net).items() if isinstance(value, dict)] == ["0.conv.weight"]
