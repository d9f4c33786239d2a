"""Packed files: what is written is read back to the last bit; what is cut, altered or forged is refused in one line; scripts run them."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts import ROOT, load_script
from tests.test_xnor import NETWORKS, cifar, mnist, pixels, predict, run, standardised, unsettle
from util import packed as xnor
from util.errors import InputError
from util.packed import file
from util.packed.freeze import freeze
from util.packed.run import PackedNetwork
from util.spec import Spec
from util.train import checkpoint

SPEC = Spec("x", tuple("0123456789abcdef"), (1, 28, 28), (0.0,), (1.0,), "digit")
ONES = np.ones(1, np.float32)
TO_16 = [{"step": "average_pool", "size": 7, "stride": 7, "padding": 0}]  # 28 x 28 -> 4 x 4
MOST_BYTES = {"nin": 205_000, "LeNet_5": 80_000, "vgg": 670_000, "vgg_clips": 680_000, "resnet20": 65_000}
MOST_BYTES |= {"nin_clips": 205_000, "resnet20_clips": 70_000}


@pytest.fixture(scope="module", params=NETWORKS)
def packed(request, tmp_path_factory):
    arch = request.param
    network, spec = NETWORKS[arch]
    torch.manual_seed(4)
    frozen = freeze(unsettle(network()), spec)
    path = tmp_path_factory.mktemp("packed") / f"{arch}.xnor"
    return arch, frozen, path, xnor.save(frozen, path)


def test_a_packed_file_holds_the_network_to_the_last_bit(packed):
    arch, frozen, path, size = packed
    assert size == path.stat().st_size <= MOST_BYTES[arch]
    assert xnor.is_packed(path) and not xnor.is_packed(ROOT / arch)
    images = pixels(4, frozen.spec.shape)
    again = xnor.load(path)
    assert torch.equal(run(again, images), run(frozen, images)) and again.spec == frozen.spec == NETWORKS[arch][1]
    assert xnor.save(again, path.with_suffix(".again")) == size and path.with_suffix(".again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("arch", "most_bytes"), [("nin", 215_000), ("resnet20", 70_000)])
def test_binary_weights_with_float_activations_are_bits_in_the_file(arch, most_bytes, tmp_path):
    network, spec = NETWORKS[arch]
    torch.manual_seed(8)
    model = unsettle(network(estimator="none"))
    frozen = freeze(model, spec)
    assert xnor.save(frozen, tmp_path / "x.xnor") <= most_bytes
    images = pixels(2, spec.shape)
    again = run(xnor.load(tmp_path / "x.xnor"), images)
    expected = predict(model, standardised(images, spec))
    assert torch.equal(again, run(frozen, images)) and torch.equal(again.argmax(1), expected.argmax(1))
    torch.testing.assert_close(again / expected.std(), expected / expected.std(), rtol=1e-4, atol=1e-4)


def test_a_pipe_is_no_packed_network_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.xnor")
    assert not xnor.is_packed(tmp_path / "x.xnor")


def test_a_missing_file_and_a_checkpoint_are_named_as_what_they_are(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.best.pth.tar")
    for name, reason in (("x.best.pth.tar", "not a packed network, which main.py --export writes"), ("vgg", "no such file")):
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            xnor.load(tmp_path / name)


def test_another_network_is_refused(packed):
    with pytest.raises(InputError, match="holds .*, expected resnet"):
        xnor.load(packed[2], replace(packed[1].spec, arch="resnet"))


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
    save_file(tensors, path, {"network": f"{file._digest(text, tensors)} {text}"})


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
    "conv", None,
])  # fmt: skip
def test_forged_files_are_refused(steps, tmp_path):
    head = {"format": file.FORMAT, "version": 2, "spec": SPEC.to_dict(), "steps": [*steps, *TO_16] if isinstance(steps, list) else steps}
    forge(tmp_path / "x.xnor", head, {"00.scale": ONES, "00.shift": ONES, "00.slope": ONES, "00.negative": np.ones(1, np.uint8),
                                      "00.threshold": np.ones(1, np.int32), "00.weight": np.ones(1, np.uint8)})  # fmt: skip
    with pytest.raises(InputError, match="x.xnor: no valid"):
        xnor.load(tmp_path / "x.xnor")


def test_a_forged_file_whose_steps_fit_is_a_network(tmp_path):
    forge(tmp_path / "x.xnor", {"format": file.FORMAT, "version": 2, "spec": SPEC.to_dict(), "steps": TO_16}, {})
    assert xnor.load(tmp_path / "x.xnor")(np.zeros((1, 1, 28, 28), np.uint8)).shape == (1, 16)


@pytest.mark.parametrize(("changes", "words"), [
    ({"format": "zip"}, "is zip"), ({"version": 99}, "version 99"), ({"version": [1]}, "version"),
    ({"spec": None}, "no valid"), ({"spec": {}}, "no valid"), ({"spec": {"arch": 7}}, "holds 7"),
    ({"spec": {"shape": [1, 4]}}, "no valid"), ({"spec": {"shape": [1, 1 << 20, 1 << 20]}}, "no valid"),
    ({"spec": {"mean": [0, 0]}}, "standardise"), ({"spec": {"std": [0]}}, "standardise"),
    ({"spec": {"mean": [float("nan")]}}, "standardise"),
    ({"spec": {"classes": ["a", "b"]}}, "16 outputs for 2 classes"), ({"spec": {"also_right": 3}}, "no valid"),
])  # fmt: skip
def test_forged_heads_are_refused(changes, words, tmp_path):
    head = {"format": file.FORMAT, "version": 2, "spec": SPEC.to_dict(), "steps": TO_16} | changes
    if isinstance(changes.get("spec"), dict) and changes["spec"]:
        head["spec"] = SPEC.to_dict() | changes["spec"]
    forge(tmp_path / "x.xnor", head, {})
    with pytest.raises(InputError, match=words) as error:
        xnor.load(tmp_path / "x.xnor", SPEC)
    assert "\n" not in str(error.value)


def bomb(*steps):
    plain = {"step": "conv", "weight": [1, 1, 1, 1], "scale": [1], "shift": [1], "relu": False, "stride": 1, "padding": 0}
    return [plain | step for step in steps]


@pytest.mark.parametrize("steps", [
    bomb({"weight": [1 << 26, 1, 1, 1], "scale": [1 << 26], "shift": [1 << 26]}),  # one value stands for many, but not for that many
    bomb({"weight": [1, 1, 1 << 13, 1 << 13]}), bomb(*[{"weight": [400, 1, 1, 1], "scale": [400], "shift": [400]}] * 60),
    [{"step": "affine", "scale": [1 << 26], "shift": [1 << 26], "relu": False}] * 30,
    [{"step": "average_pool", "size": 500, "stride": 1, "padding": 499}] * 10,  # hours for an image
])  # fmt: skip
def test_what_its_bytes_cannot_bear_is_refused_before_anything_is_unpacked(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "unpack", lambda *given: pytest.fail("unpacked"))
    arrays = {f"{i:02d}.{key}": ONES for i in range(60) for key in ("scale", "shift")}
    arrays |= {f"{i:02d}.weight": np.ones(50, np.uint8) for i in range(60)}
    forge(tmp_path / "x.xnor", {"format": file.FORMAT, "version": 2, "spec": SPEC.to_dict(), "steps": steps}, arrays)
    with pytest.raises(InputError, match="no valid"):
        xnor.load(tmp_path / "x.xnor")


def test_a_window_that_leaves_the_map_in_millions_of_ways_takes_no_memory(tmp_path):
    size, window = 120, {"stride": 1, "padding": 119}
    steps = [
        {"step": "sign", "scale": [3], "threshold": [3]},
        {"step": "binary_conv", "negative": [1, 3, size, size], "scale": [1], "shift": [1], "relu": False, **window},
        {"step": "average_pool", "size": 61, "stride": 61, "padding": 0},
    ]
    spec = replace(SPEC, shape=(3, 128, 128), mean=(0.0,) * 3, std=(1.0,) * 3, crop="object")
    arrays = {f"{i:02d}.{key}": ONES for i, key in ((0, "scale"), (0, "threshold"), (1, "scale"), (1, "shift"))}
    arrays["01.negative"] = np.ones(3 * size * size // 8, np.uint8)
    forge(tmp_path / "x.xnor", {"format": file.FORMAT, "version": 2, "spec": spec.to_dict(), "steps": steps}, arrays)
    with pytest.raises(InputError, match="no valid packed network .*its window leaves the map in too many ways"):
        xnor.load(tmp_path / "x.xnor")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_file_of_weights_that_are_no_numbers_is_refused(value, tmp_path):
    steps = [{"step": "affine", "scale": [1], "shift": [1], "relu": False}, *TO_16]
    forge(tmp_path / "x.xnor", {"format": file.FORMAT, "version": 2, "spec": SPEC.to_dict(), "steps": steps},
          {"00.scale": ONES, "00.shift": np.full(1, value, np.float32)})  # fmt: skip
    with pytest.raises(InputError, match="x.xnor: .*shift of a step affine holds NaN or infinite"):
        xnor.load(tmp_path / "x.xnor")
    with pytest.raises(ValueError, match="holds NaN"):
        PackedNetwork([("affine", {"scale": ONES, "shift": np.full(1, value, np.float32), "relu": False})], SPEC)


def test_files_of_the_first_version_are_read_with_what_the_script_knows(packed, tmp_path):
    arch, frozen, path, _ = packed
    from safetensors.numpy import load_file, safe_open

    with safe_open(path, "numpy") as opened:
        head = json.loads(opened.metadata()["network"].partition(" ")[2])
    spec = head.pop("spec")
    first = head | {"version": 1} | {key: spec[key] for key in ("arch", "shape", "mean", "std")}
    forge(tmp_path / "x.xnor", first, load_file(path))
    images, known = pixels(3, frozen.spec.shape), replace(frozen.spec, temperature=2.5)
    again = xnor.load(tmp_path / "x.xnor", known)
    assert again.spec == known and torch.equal(run(again, images), run(frozen, images))
    with pytest.raises(InputError, match="x.xnor: .*doesn't tell its classes"):
        xnor.load(tmp_path / "x.xnor")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/models/*.xnor")), ids=lambda path: path.stem)
def test_shipped_packed_networks_are_those_of_the_checkpoints(path):
    network, spec = NETWORKS[path.stem]
    model = network().eval()
    checkpoint.load_into(model, path.with_name(f"{path.stem}.best.pth.tar"), path.stem)
    images, shipped = pixels(8, spec.shape), xnor.load(path)
    assert torch.equal(run(shipped, images), run(freeze(model, spec), images)) and shipped.spec == spec


# ---- Scripts ---------------------------------------------------------------------------------------------------------
def refused(script, capsys, *arguments):
    """Return the one line with which a script ends, called with what it can't do."""
    with pytest.raises(SystemExit) as end:
        script.run(lambda: script.main(["--cpu", *map(str, arguments)]))
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    return error


def test_scripts_export_and_run_packed_networks(tmp_path, capsys):
    crops = tmp_path / "crops"
    crops.mkdir()
    rng = np.random.default_rng(6)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(crops / f"{i}.png")
    packed = tmp_path / "lenet.xnor"
    torch.manual_seed(7)
    checkpoint.save(tmp_path / "lenet.pth.tar", {"arch": "LeNet_5", "best_acc": 1.0, "state_dict": unsettle(mnist.LeNet5()).state_dict()})
    mnist.main(["--cpu", "--pretrained", str(tmp_path / "lenet.pth.tar"), "--export", str(packed)])
    assert f"{packed.stat().st_size} bytes" in capsys.readouterr().out
    weights = (tmp_path / "lenet.pth.tar").read_bytes()
    same = tmp_path / "crops" / ".." / "lenet.pth.tar"
    words = refused(mnist, capsys, "--pretrained", tmp_path / "lenet.pth.tar", "--export", same)
    assert "give --export another name" in words and (tmp_path / "lenet.pth.tar").read_bytes() == weights
    rows = {}
    for engine, weights in [("torch", "lenet.pth.tar"), ("xnor", "lenet.pth.tar"), ("auto", "lenet.xnor")]:
        arguments = ["--cpu", "--pretrained", tmp_path / weights, "--engine", engine, "--multi_fastMCD", crops, "--save", tmp_path / engine]
        mnist.main([str(argument) for argument in arguments])
        rows[engine + weights] = (tmp_path / engine / "predictions.csv").read_text()
    assert len(set(rows.values())) == 1


@pytest.mark.parametrize(("arguments", "words"), [
    (["--engine", "torch", "--evaluate"], "packed network"),
    (["--epochs", "1"], "packed network neither learns nor teaches"),
    (["--arch", "nin", "--evaluate"], "holds LeNet_5"),
])  # fmt: skip
def test_what_a_packed_network_cannot_do_is_said_in_one_line(arguments, words, tmp_path, capsys):
    network, spec = NETWORKS["LeNet_5"]
    xnor.save(freeze(network().eval(), spec), tmp_path / "x.xnor")
    assert words in refused(cifar if "nin" in arguments else mnist, capsys, "--pretrained", tmp_path / "x.xnor", *arguments)


def test_the_benchmark_runs(tmp_path, capsys):
    bench = load_script("benchmarks/xnor.py")
    bench.main([*"--arch LeNet_5 --batch 1 --threads 1 --seconds 0.1 --no-compile --plot".split(), str(tmp_path)])
    printed = capsys.readouterr().out
    assert "torch fp32" in printed and "all binary layers" in printed and (tmp_path / "LeNet_5.xnor.png").exists()


def test_an_unknown_kernel_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("XNOR_KERNEL", "mmx")
    assert "XNOR_KERNEL is 'mmx'" in refused(mnist, capsys, "--evaluate", "--engine", "xnor")
