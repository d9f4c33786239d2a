"""PyTorch_CIFAR10: the networks against the published facts, the scripts as a person runs them."""
import argparse
import csv
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.scripts import ROOT, load_script, run_script
from util import checkpoint
from util.cli import InputError

download = load_script("PyTorch_CIFAR10/cifar10_download.py")
main = load_script("PyTorch_CIFAR10/main.py")
networks = download.networks

# Millions of parameters as published; inception_v3 is given as 21.640 there, its own code makes 21.639.
PUBLISHED = {
    "vgg11_bn": "28.150", "vgg13_bn": "28.334", "vgg16_bn": "33.647", "vgg19_bn": "38.959", "resnet18": "11.174", "resnet34": "21.282",
    "resnet50": "23.521", "densenet121": "6.956", "densenet161": "26.483", "densenet169": "12.493", "mobilenet_v2": "2.237",
    "googlenet": "5.491", "inception_v3": "21.639",
}  # fmt: skip
SMALL = ["--classifier", "mobilenet_v2"]
# A layer, the side of what comes out of it for a 32x32 image, and keys with their shapes.
LAYERS = {
    "vgg11_bn": ("features", 1, {"features.1.running_var": (64,), "classifier.0.weight": (4096, 512), "classifier.6.weight": (10, 4096)}),
    "vgg13_bn": ("features", 1, {"features.3.bias": (64,), "features.4.num_batches_tracked": (), "classifier.3.weight": (4096, 4096)}),
    "vgg16_bn": ("features", 1, {"features.40.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 512)}),
    "vgg19_bn": ("features", 1, {"features.49.weight": (512, 512, 3, 3), "classifier.6.bias": (10,)}),
    "resnet18": ("layer1", 16, {"conv1.weight": (64, 3, 3, 3), "layer4.0.downsample.0.weight": (512, 256, 1, 1), "fc.weight": (10, 512)}),
    "resnet34": ("layer4", 2, {"conv1.weight": (64, 3, 3, 3), "layer3.5.bn2.running_mean": (256,), "fc.weight": (10, 512)}),
    "resnet50": ("layer4", 2, {"layer2.0.conv2.weight": (128, 128, 3, 3), "layer1.0.bn3.weight": (256,), "fc.weight": (10, 2048)}),
    "densenet121": ("features.pool0", 16, {"features.conv0.weight": (64, 3, 3, 3), "classifier.weight": (10, 1024)}),
    "densenet161": ("features.norm5", 2, {"features.denseblock1.denselayer1.conv2.weight": (48, 192, 3, 3)}),
    "densenet169": ("features.norm5", 2, {"features.denseblock4.denselayer32.norm1.weight": (1632,), "classifier.weight": (10, 1664)}),
    "mobilenet_v2": ("features.18", 4, {"features.1.conv.0.0.weight": (32, 1, 3, 3), "features.1.conv.2.weight": (16,),
                                        "features.2.conv.3.weight": (24,), "classifier.1.weight": (10, 1280)}),
    "googlenet": ("inception5b", 8, {"conv1.conv.weight": (192, 3, 3, 3), "inception3a.branch2.1.conv.weight": (128, 96, 3, 3),
                                     "inception3a.branch4.1.bn.weight": (32,), "fc.weight": (10, 1024)}),
    "inception_v3": ("Mixed_7c", 7, {"Conv2d_1a_3x3.conv.weight": (192, 3, 3, 3), "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
                                     "Mixed_7a.branch3x3_2.conv.weight": (320, 192, 3, 3), "fc.weight": (10, 2048)}),
}  # fmt: skip


def on_meta(name, **options):
    """The network without memory for its weights: shapes only."""
    with torch.device("meta"):
        return networks.NETWORKS[name](**options).eval()


# ---- The networks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_network_has_the_published_size_keys_and_shapes(name):
    model = on_meta(name)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}" == PUBLISHED[name]
    layer, side, shapes = LAYERS[name]
    state = model.state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not [key for key in state if re.match(r"aux|AuxLogits|conv[23]\.|Conv2d_[234]", key) and not name.startswith("resnet")]
    sizes = []
    model.get_submodule(layer).register_forward_hook(lambda *call: sizes.append(call[2].shape[2:]))
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)
    assert sizes == [(side, side)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "vgg11_bn"])
def test_new_network_starts_with_finite_logits_and_no_layer_left_empty(name):
    torch.manual_seed(0)
    model = networks.NETWORKS[name]().eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 32))
    assert logits.shape == (1, 10) and logits.isfinite().all()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert 1e-3 < module.weight.std() < 1 and module.weight.mean().abs() < 0.02
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.running_var == 1).all() and (module.bias == 0).all()


def test_published_file_loads_and_computes_the_same(tmp_path):
    torch.manual_seed(1)
    model = networks.NETWORKS["mobilenet_v2"]().eval()
    torch.save(model.state_dict(), tmp_path / "mobilenet_v2.pt")
    loaded = networks.load("mobilenet_v2", tmp_path / "mobilenet_v2.pt").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))
    with pytest.raises(InputError, match="not a checkpoint of resnet18"):
        networks.load("resnet18", tmp_path / "mobilenet_v2.pt")


@pytest.mark.filterwarnings("ignore:.*no-op")
@pytest.mark.parametrize(("name", "options"), [("vgg11_bn", {"pool": 7}), ("googlenet", {"block": networks.Inception5x5})])
def test_other_variants_are_told_by_their_shapes(tmp_path, name, options):
    # One number stands for all of a tensor, in the file too: a real VGG of that kind has 500 MB.
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in on_meta(name, **options).state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    with torch.device("meta"):
        model = networks.load(name, tmp_path / "other.pt").eval()
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)
    if name == "vgg11_bn":
        assert model.classifier[0].weight.shape == (4096, 25088) and model.avgpool.output_size == 7
    else:
        assert model.inception5b.branch3[1].conv.kernel_size == (5, 5)


# ---- The training's parts --------------------------------------------------------------------------------------------
def test_learning_rate_rises_for_30_percent_and_falls_as_half_a_cosine():
    rates = [main.lr_at(i / 100, 0.01) for i in range(101)]
    assert rates[0] == rates[100] == 1e-8 and max(rates) == rates[30] == pytest.approx(0.01)
    assert rates[15] == pytest.approx(0.005, rel=1e-4)
    weight = nn.Parameter(torch.zeros(1))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], 0.01), 70, 1e-8)
    for i in range(30, 100):
        assert rates[i] == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        scheduler.optimizer.step()
        scheduler.step()


def test_random_crop_is_one_of_the_81_of_a_black_rimmed_image():
    images = torch.randint(1, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)])
    cropped = main.random_crop(images, torch.Generator().manual_seed(0)).numpy()
    places = set()
    for i in range(40):
        found = [(y, x) for y in range(9) for x in range(9) if np.array_equal(cropped[i], padded[i, :, y : y + 32, x : x + 32])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 15


def test_an_epoch_learns_the_same_from_the_same_seed_and_in_bfloat16_too():
    labels = torch.arange(40) % 10
    images = (labels * 25).view(-1, 1, 1, 1).expand(40, 3, 32, 32).to(torch.uint8)
    losses = {}
    for bf16 in (False, False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 10))
        args = argparse.Namespace(seed=1, batch_size=16, epochs=4, lr=0.1, bf16=bf16, std=main.STD)
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True)
        found = [main.train_epoch(model, model, images, labels, optimizer, args, epoch, torch.device("cpu")) for epoch in (1, 2, 3, 4)]
        assert found[-1] < found[0]
        assert losses.setdefault(bf16, found) == found
    assert losses[True] == pytest.approx(losses[False], rel=0.05) and losses[True] != losses[False]


# ---- The scripts -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A tiny data set in folders, two images a class."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in main.CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A copy of the scripts in a repository of its own, so that nothing is written into this one."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("util", "fastmcd"):
        os.symlink(ROOT / name, root / name)
    (root / "PyTorch_CIFAR10").mkdir()
    for path in (ROOT / "PyTorch_CIFAR10").glob("*.py"):
        shutil.copy(path, root / "PyTorch_CIFAR10")
    return root / "PyTorch_CIFAR10"


@pytest.fixture(scope="module")
def trained(room, images):
    """The finished training of the smallest network."""
    return run_script(room / "main.py", *SMALL, "--data", images, "--epochs", 2, "--batch-size", 8, cwd=room)


def test_training_writes_weights_log_and_curve(trained, room):
    assert trained.returncode == 0, trained.stderr
    assert "epoch   2" in trained.stdout and "of the test images right" in trained.stdout
    names = {"mobilenet_v2.pt", "mobilenet_v2.last.pth.tar", "mobilenet_v2.log.csv", "mobilenet_v2.curve.png"}
    assert set(os.listdir(room / "state_dicts")) == names
    state = checkpoint.load(room / "state_dicts" / "mobilenet_v2.pt")["state_dict"]
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in on_meta("mobilenet_v2").state_dict().items()}


def test_the_command_for_the_detectors_results_works_as_written(trained, room, images):
    results = room.parent / "results"
    (results / "crops").mkdir(parents=True)
    rows = ["frame,object,x,y,width,height,score,crop"]
    for frame, number, name in [(1, 0, "car"), (1, 1, "truck"), (2, 0, "ship")]:
        crop = f"crops/{frame:06d}_{number:02d}.png"
        shutil.copy(images / "test" / {"car": "automobile"}.get(name, name) / "0.png", results / crop)
        rows.append(f"{frame},{number},5,6,30,20,0.9,{crop}")
    (results / "detections.csv").write_text("\n".join(rows) + "\n")
    done = run_script(room / "cifar10_test.py", *SMALL, "--fastMCD", "--data", results, "--label", "1", cwd=room)
    assert done.returncode == 0, done.stderr
    assert "3 objects in 2 frames" in done.stdout and "automobile or truck: " in done.stdout
    with open(results / "predictions.csv") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["frame", "object", "x", "y", "width", "height", "label", "probability"]
    assert [(row["frame"], row["object"]) for row in found] == [("1", "0"), ("1", "1"), ("2", "0")]
    assert all(row["label"] in main.CLASSES and 0.1 <= float(row["probability"]) <= 1 for row in found)


@pytest.fixture
def call(trained, room, monkeypatch):
    """A function (script's name, arguments) -> what its main returns, here in this process, since starting one takes seconds."""
    monkeypatch.setattr(networks, "STATE_DICTS", room / "state_dicts")
    monkeypatch.setitem(sys.modules, "main", main)  # which cifar10_test.py imports
    scripts = {"main": main, "cifar10_download": download, "cifar10_test": load_script("PyTorch_CIFAR10/cifar10_test.py")}
    return lambda name, arguments: scripts[name].main([str(argument) for argument in arguments])


def test_both_scripts_evaluate_alike(call, images, capsys):
    found = [call("cifar10_test", [*SMALL, "--data", images]), call("main", [*SMALL, "--data", images, "--evaluate", "--cpu"])]
    assert found[0] == found[1] and found[0] in [i / 20 for i in range(21)]
    assert capsys.readouterr().out.splitlines() == [f"mobilenet_v2: {100 * found[0]:.2f} % of the test images right"] * 2


def test_bad_input_is_answered_in_one_line(call, room, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    torch.save({"state_dict": {"a": main.Path}}, tmp_path / "code")
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "other")
    shutil.copy(tmp_path / "other", room / "state_dicts" / "resnet18.pt")
    wrong = [
        ("cifar10_test", [], "--classifier"),
        ("cifar10_test", ["--classifier", "vgg12"], "vgg11_bn"),
        ("cifar10_test", ["--classifier", "googlenet"], "main.py --classifier googlenet trains it"),
        ("cifar10_test", [*SMALL, "--fastMCD"], "--fastMCD needs --data"),
        ("cifar10_test", [*SMALL, "--fastMCD", "--data", empty], "neither"),
        ("cifar10_test", [*SMALL, "--fastMCD", "--data", tmp_path / "none"], "not there"),
        ("cifar10_test", [*SMALL, "--fastMCD", "--data", empty, "--label", "10"], "'10' is no label"),
        ("cifar10_test", [*SMALL, "--limit", "0"], "'0' is not a whole number"),
        ("cifar10_test", [*SMALL, "--video", tmp_path / "none.mp4"], "No such file"),
        ("cifar10_test", [*SMALL, "--pretrained", tmp_path / "none"], "no such file"),
        ("cifar10_test", [*SMALL, "--pretrained", tmp_path / "code"], "refused"),
        ("cifar10_test", [*SMALL, "--pretrained", tmp_path / "other"], "not a checkpoint of mobilenet_v2"),
        ("main", ["--classifier", "resnet18"], "weights from elsewhere"),
        ("cifar10_download", ["--sha256", "12"], "64 hexadecimal digits"),
        ("cifar10_download", ["--url", "file:///etc/passwd"], "http://"),
        ("cifar10_download", ["--zip", tmp_path / "none.zip"], "no such file"),
        ("cifar10_download", ["--zip", tmp_path / "code"], "state_dicts/NAME.pt"),
        ("cifar10_download", ["--url", "http://127.0.0.1:9/a.zip"], "main.py --classifier NAME, or put NAME.pt into"),
    ]
    for name, arguments, words in wrong:
        with pytest.raises(InputError) as error:
            call(name, arguments)
        assert words in str(error.value) and "\n" not in str(error.value), (name, arguments)
    (room / "state_dicts" / "resnet18.pt").unlink()
