"""Packed files: what is written is read back to the last bit; what is cut, altered or forged is refused in one line; scripts run them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts import ROOT, run_script
from util.cli import InputError
from util.packed import network as xnor
from util.train import checkpoint

pytest.importorskip("util.packed._xnor", reason="the native build is not there")
from tests.test_xnor import NETWORKS, mnist, pixels, predict, unsettle  # noqa: E402

MOST_BYTES = {"nin": 205_000, "LeNet_5": 80_000, "vgg": 670_000, "resnet20": 65_000}


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request, tmp_path_factory):
    arch = request.param
    network, shape, mean, std = NETWORKS[arch]
    torch.manual_seed(4)
    frozen = xnor.freeze(unsettle(network()), shape, mean, std, arch)
    path = tmp_path_factory.mktemp("packed") / f"{arch}.xnor"
    return arch, frozen, path, frozen.save(path)


def test_a_packed_file_holds_the_network_to_the_last_bit(packed):
    arch, frozen, path, size = packed
    assert size == path.stat().st_size <= MOST_BYTES[arch]
    assert xnor.is_packed(path) and not xnor.is_packed(ROOT / arch)
    images = pixels(4, frozen.shape)
    again = xnor.load(path, arch)
    assert torch.equal(again(images), frozen(images)) and again.arch == arch
    assert again.save(path.with_suffix(".again")) == size and path.with_suffix(".again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("arch", "most_bytes"), [("nin", 215_000), ("resnet20", 70_000)])
def test_binary_weights_with_float_activations_are_bits_in_the_file(arch, most_bytes, tmp_path):
    network, shape, mean, std = NETWORKS[arch]
    torch.manual_seed(8)
    model = unsettle(network(estimator="none"))
    frozen = xnor.freeze(model, shape, mean, std, f"{arch}_bwn")
    assert frozen.save(tmp_path / "x.xnor") <= most_bytes
    images = pixels(2, shape)
    again = xnor.load(tmp_path / "x.xnor", f"{arch}_bwn")(images)
    x = (images.float() / 255 - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    expected = predict(model, x)
    assert torch.equal(again, frozen(images)) and torch.equal(again.argmax(1), expected.argmax(1))
    torch.testing.assert_close(again / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


def test_another_network_is_refused(packed):
    with pytest.raises(InputError, match="holds .*, expected resnet"):
        xnor.load(packed[2], "resnet")


def test_damaged_files_are_refused_in_one_line(packed, tmp_path):
    data, rng = packed[2].read_bytes(), np.random.default_rng(5)
    broken = tmp_path / "broken.xnor"
    cuts = [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]
    flips = [*range(0, 20), *rng.integers(0, len(data), 60).tolist(), len(data) - 1]
    for change in [*(data[:cut] for cut in cuts), *(data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :] for i in flips)]:
        broken.write_bytes(change)
        with pytest.raises(InputError, match="broken.xnor") as error:
            xnor.load(broken)
        assert "\n" not in str(error.value)


def forge(path, head, tensors):
    """Write a file whose checksum is right, whatever is in it."""
    from safetensors.numpy import save_file

    text = json.dumps(head)
    save_file(tensors, path, {"network": f"{xnor._digest(text, tensors)} {text}"})


@pytest.mark.parametrize("steps", [
    [{"step": "__class__"}], [{"step": "run"}], [{}], ["conv"], [{"step": "max_pool", "size": 2}],
    [{"step": "max_pool", "size": 99, "stride": 1, "padding": 0}], [{"step": "max_pool", "size": 2, "stride": 0, "padding": 0}],
    [{"step": "max_pool", "size": "2", "stride": 1, "padding": 0}], [{"step": "max_pool", "size": 2, "stride": 1, "padding": -1}],
    [{"step": "affine", "scale": [3], "shift": [3], "relu": False}],
    [{"step": "affine", "scale": [1 << 40], "shift": [1], "relu": False}],
    [{"step": "affine", "scale": [-1], "shift": [1], "relu": False}],
    [{"step": "binary_conv_sign", "negative": [1, 1, 1, 1], "threshold": [1], "stride": 1, "padding": 0}],
    [{"step": "add", "map": 1, "size": 1}], [{"step": "add", "map": -1, "size": 1}], [{"step": "add", "map": 0, "size": 0}],
    [{"step": "add", "map": 0, "size": 2}], [{"step": "add", "map": 0, "size": 1 << 31}], [{"step": "add", "map": 0, "size": "1"}],
    [{"step": "prelu", "slope": [2]}], [{"step": "sign", "scale": [1], "threshold": [1]}, {"step": "add", "map": 1, "size": 1}],
    [{"step": "conv", "weight": [1, 1, 3, 3], "scale": [1], "shift": [1], "relu": False, "stride": 1, "padding": 0}],  # 9 weights, 8 bits
    "conv", None, [],
])  # fmt: skip
def test_forged_files_are_refused_or_harmless(steps, tmp_path):
    head = {"format": xnor.FORMAT, "version": xnor.VERSION, "arch": "x", "shape": [1, 4, 4], "mean": [0], "std": [1], "steps": steps}
    ones = np.ones(1, np.float32)
    forge(
        tmp_path / "x.xnor",
        head,
        {"00.scale": ones, "00.shift": ones, "00.negative": np.ones(1, np.uint8), "00.threshold": np.ones(1, np.int32),
         "00.weight": np.ones(1, np.uint8)},
    )
    if steps == []:
        assert xnor.load(tmp_path / "x.xnor")(torch.zeros(1, 1, 4, 4)).shape == (1, 16)
    else:
        with pytest.raises(InputError, match="x.xnor"):
            xnor.load(tmp_path / "x.xnor")


@pytest.mark.parametrize(("key", "value", "words"), [
    ("format", "zip", "is zip"), ("version", 99, "version 99"),
    ("shape", [1, 4], "no valid"), ("shape", [1, 1 << 20, 1 << 20], "images of"),
    ("shape", [0, 4, 4], "at least 1"),
    ("mean", [0, 0], "normalize"), ("std", None, "standardise"), ("std", [0], "standardise"), ("arch", 7, "holds 7"),
])  # fmt: skip
def test_forged_heads_are_refused(key, value, words, tmp_path):
    head = {
        "format": xnor.FORMAT,
        "version": xnor.VERSION,
        "arch": "x",
        "shape": [1, 4, 4],
        "mean": [0],
        "std": [1],
        "steps": [],
        key: value,
    }
    forge(tmp_path / "x.xnor", head, {})
    with pytest.raises(InputError, match=words):
        xnor.load(tmp_path / "x.xnor", "x")


# ---- Scripts ---------------------------------------------------------------------------------------------------------
def test_scripts_export_and_run_packed_networks(tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    rng = np.random.default_rng(6)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(crops / f"{i}.png")
    packed = tmp_path / "lenet.xnor"
    torch.manual_seed(7)
    checkpoint.save(tmp_path / "lenet.pth.tar", {"arch": "LeNet_5", "best_acc": 1.0, "state_dict": unsettle(mnist.LeNet5()).state_dict()})
    done = run_script("MNIST/main.py", "--pretrained", tmp_path / "lenet.pth.tar", "--export", packed, "--cpu")
    assert done.returncode == 0 and f"{packed.stat().st_size} bytes" in done.stdout
    rows = {}
    for engine, weights in [("torch", "lenet.pth.tar"), ("xnor", "lenet.pth.tar"), ("auto", "lenet.xnor")]:
        done = run_script(
            "MNIST/main.py",
            "--pretrained",
            tmp_path / weights,
            "--engine",
            engine,
            "--multi_fastMCD",
            crops,
            "--save",
            tmp_path / engine,
            "--cpu",
        )
        assert done.returncode == 0, done.stderr
        rows[engine + weights] = (tmp_path / engine / "predictions.csv").read_text()
    assert len(set(rows.values())) == 1


@pytest.mark.parametrize(("arguments", "words"), [
    (["--engine", "torch", "--evaluate"], "packed network"),
    (["--epochs", "1"], "packed network can't be trained"),
    (["--arch", "nin", "--evaluate"], "holds LeNet_5"),
])  # fmt: skip
def test_what_a_packed_network_cannot_do_is_said_in_one_line(arguments, words, tmp_path):
    network, shape, mean, std = NETWORKS["LeNet_5"]
    xnor.freeze(network().eval(), shape, mean, std, "LeNet_5").save(tmp_path / "x.xnor")
    done = run_script(
        "CIFAR_10/main.py" if "nin" in arguments else "MNIST/main.py", "--pretrained", tmp_path / "x.xnor", *arguments, "--cpu"
    )
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_the_benchmark_runs(tmp_path):
    done = run_script("benchmarks/xnor.py", *"--arch LeNet_5 --batch 1 --threads 1 --seconds 0.1 --no-compile --plot".split(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch fp32" in done.stdout and "all binary layers" in done.stdout and (tmp_path / "LeNet_5.xnor.png").exists()


def test_an_unknown_kernel_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("XNOR_KERNEL", "mmx")
    done = run_script("MNIST/main.py", "--evaluate", "--engine", "xnor", "--cpu")
    assert done.returncode == 2 and "XNOR_KERNEL is 'mmx'" in done.stderr and done.stderr.count("\n") == 1
