"""CIFAR_10/main.py: the network's file format, that it learns, and the script as a person runs it."""
import csv
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.scripts import ROOT, load_script, run_script
from util.binop import BinOp
from util.errors import InputError
from util.train import checkpoint

main = load_script("CIFAR_10/main.py")
SHIPPED = ROOT / "CIFAR_10" / "models" / "nin.best.pth.tar"


def xnor_net_pytorch_shapes():
    """Keys and shapes of that project's nin, written down from its files."""
    shapes = {"0.weight": (192, 3, 5, 5), "0.bias": (192,), "13.weight": (10, 192, 1, 1), "13.bias": (10,)}
    for i in (1, 12):
        shapes |= {f"{i}.running_mean": (192,), f"{i}.running_var": (192,), f"{i}.num_batches_tracked": ()}
    blocks = {3: (192, 160, 1), 4: (160, 96, 1), 6: (96, 192, 5), 7: (192, 192, 1), 8: (192, 192, 1), 10: (192, 192, 3), 11: (192, 192, 1)}
    for i, (inputs, outputs, k) in blocks.items():
        shapes |= {f"{i}.conv.weight": (outputs, inputs, k, k), f"{i}.conv.bias": (outputs,), f"{i}.bn.num_batches_tracked": ()}
        shapes |= {f"{i}.bn.{name}": (inputs,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {f"xnor.{key}": shape for key, shape in shapes.items()}


def write_images(root, count, seed=0):
    """A tiny data set in CIFAR-10's folder layout: each class has its own colour, under noise."""
    generator = np.random.default_rng(seed)
    colours = np.random.default_rng(42).integers(30, 226, (10, 1, 1, 3))
    for split in ("train", "test"):
        for label, name in enumerate(main.CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(colours[label] + generator.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 2)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder in the script's place, so that nothing is written into this one."""
    monkeypatch.setattr(main, "HERE", tmp_path)
    return tmp_path


def test_state_dict_is_that_of_xnor_net_pytorch():
    model = main.NIN()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == xnor_net_pytorch_shapes()
    assert sum(p.numel() for p in model.parameters()) == 969_418
    assert sum(weight.numel() for weight in main.BinOp(model).weights) == 949_248


def test_global_pooling_is_the_8x8_pooling_at_full_size():
    model = main.NIN().eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), F.avg_pool2d(model.xnor[:15](x), 8).flatten(1))


@pytest.mark.parametrize(("arch", "bits", "macs"), [("nin", 949_248, 222), ("vgg", 4_718_592, 192), ("resnet20", 267_264, 41)])
def test_networks_have_the_size_they_say(arch, bits, macs):
    model, counted = main.MODELS[arch]().eval(), []
    assert sum(weight.numel() for weight in BinOp(model).weights) == bits
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda m, _, y: counted.append(m.weight.numel() * (y[0, 0].numel() if y.dim() == 4 else 1)))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sum(counted) == pytest.approx(1e6 * macs, abs=0.8e6) and sum(counted) <= 225e6


def test_residual_adds_what_goes_past_the_block():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for width, stride, past in ((4, 1, x), (8, 2, torch.cat([F.avg_pool2d(x, 2)] * 2, 1))):
        block = main.Residual(4, width, stride).eval()
        torch.testing.assert_close(block(x), block.block(x) + past)


@pytest.mark.parametrize("arch", ["nin", "vgg", "resnet20"])
@pytest.mark.parametrize("estimator", ["polynomial", "none"])
def test_binarized_net_learns_32_images_by_heart(arch, estimator):
    torch.manual_seed(0)
    model = main.MODELS[arch](estimator=estimator)
    bin_op = BinOp(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    x, y = torch.randn(32, 3, 8, 8), torch.arange(32) % 10
    for _ in range(80):
        optimizer.zero_grad()
        with bin_op.binarized():
            logits = model(x)
            F.cross_entropy(logits, y).backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()
        if (logits.argmax(1) == y).all():
            return
    pytest.fail(f"only {(logits.argmax(1) == y).sum()} of 32 after 80 steps")


def test_recipes_are_the_defaults(monkeypatch):
    words = {name: ["--arch", name.removesuffix("_bwn"), *["--bwn"] * name.endswith("_bwn")] for name in main.MODELS}
    given = {name: main.recipe_for(main.parse_args(["--cpu", *these])) for name, these in words.items()}
    assert all(recipe.epochs >= 32 and recipe.sizes[-1] == (1, 32) for recipe in given.values())
    assert given["nin"].anneal_until == 0.6 and given["nin"].lr > given["nin_bwn"].lr and not given["nin_bwn"].anneal_until
    assert main.recipe_for(main.parse_args(["--epochs", "3", "--lr", "0.1"])).epochs == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fast = {name: main.recipe_for(main.parse_args(these)) for name, these in words.items()}
    assert all(recipe.sizes == ((1, 32),) and recipe.lr >= given[name].lr for name, recipe in fast.items())
    assert fast["vgg"].epochs > given["vgg"].epochs and main.recipe_for(main.parse_args(["--cpu"])).epochs == given["nin"].epochs


@pytest.mark.parametrize("holds, anneal_until", [("nin", 0.0), ("nin_bwn", 0.6)])
def test_training_from_weights_leaves_out_what_they_have_learnt(tmp_path, holds, anneal_until):
    weights = main.MODELS[holds]().state_dict()
    checkpoint.save(tmp_path / "weights", {"arch": holds, "state_dict": weights})
    args, model = main.parse_args(["--cpu", "--arch", "nin", "--pretrained", str(tmp_path / "weights")]), main.NIN()
    recipe = main.start_from(model, args, main.recipe_for(args))
    assert recipe.sizes == ((0.75, 24), (1, 32)) and recipe.anneal_until == anneal_until
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match=f"holds {holds}, expected vgg"):
        main.start_from(main.VGG(), main.parse_args(["--arch", "vgg", "--pretrained", str(tmp_path / "weights")]), main.RECIPES["vgg"])


def test_train_evaluate_classify(home, images, capsys):
    accuracy = main.main(["--cpu", "--data", str(images), "--epochs", "2", "--batch-size", "8"])
    printed = capsys.readouterr().out
    assert "epoch   2" in printed and f"{100 * accuracy:.2f} % of the test images right" in printed
    assert set(os.listdir(home / "models")) == {"nin.best.pth.tar", "nin.last.pth.tar", "nin.log.csv", "nin.curve.png"}
    with open(home / "models" / "nin.log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert main.main(["--cpu", "--evaluate", "--data", str(images)]) == accuracy
    main.main(["--cpu", "--fastMCD", str(images / "test" / "truck"), "--label", "1", "--save", str(home / "out")])
    assert "automobile or truck: " in capsys.readouterr().out
    with open(home / "out" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(row["label"] in (*main.CLASSES, "unknown") and 0 <= float(row["probability"]) <= 1 for row in rows)
    assert (home / "out" / "contact_sheet.png").exists()


def test_batch_norms_are_frozen_to_the_end(home, images, monkeypatch):
    monkeypatch.setitem(main.RECIPES, "nin", replace(main.RECIPES["nin"], freeze_bn_from=0.5))
    train_epoch, kept = main.train_epoch, []

    def watched(model, *rest):
        before = model.xnor[1].running_mean.clone()
        train_epoch(model, *rest)
        kept.append(torch.equal(before, model.xnor[1].running_mean))

    monkeypatch.setattr(main, "train_epoch", watched)
    main.main(["--cpu", "--data", str(images), "--epochs", "3", "--batch-size", "8"])
    assert kept == [False, False, True]
    last = torch.load(home / "models" / "nin.last.pth.tar", weights_only=True)
    assert torch.equal(last["ema"]["module.xnor.1.running_mean"], last["state_dict"]["xnor.1.running_mean"])  # judged with them, too


def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(home, images, monkeypatch):
    arguments = ["--cpu", "--arch", "resnet20", "--data", str(images), "--epochs", "3", "--batch-size", "8"]
    last = home / "models" / "resnet20.last.pth.tar"
    main.main(arguments)
    whole = torch.load(last, weights_only=True)
    shutil.rmtree(home / "models")
    with monkeypatch.context() as patch:
        end_epoch = main.Run.end_epoch

        def interrupt(training, *rest):
            end_epoch(training, *rest)
            if training.epoch == 2:
                raise KeyboardInterrupt

        patch.setattr("util.train.run.SAVE_EVERY", 0)
        patch.setattr(main.Run, "end_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main.main(arguments)
    assert torch.load(last, weights_only=True)["epoch"] == 2 and not (home / "models" / "resnet20.best.pth.tar").exists()
    main.main([*arguments, "--resume"])
    resumed = torch.load(last, weights_only=True)
    assert all(torch.equal(whole["state_dict"][key], value) for key, value in resumed["state_dict"].items())
    with pytest.raises(InputError, match=f"lr {main.RECIPES['resnet20'].lr}, not 0.5"):
        main.main([*arguments, "--resume", "--lr", "0.5"])


def test_a_blend_is_a_mean_of_what_training_began_and_ended_with(home, images):
    arguments = ["--cpu", "--arch", "resnet20", "--data", str(images), "--epochs", "1", "--batch-size", "8"]
    main.main([*arguments, "--name", "first"])
    first = home / "models" / "first.best.pth.tar"
    main.main([*arguments, "--name", "second", "--pretrained", str(first), "--blend", "0.25"])
    load = lambda file: torch.load(home / "models" / file, weights_only=True)  # noqa: E731
    began, ended, kept = load(first.name)["state_dict"], load("second.last.pth.tar")["ema"], load("second.best.pth.tar")["state_dict"]
    for name, _ in main.MODELS["resnet20"]().named_parameters():
        assert torch.allclose(kept[name], 0.75 * began[name] + 0.25 * ended[f"module.{name}"], atol=1e-6), name
        assert not torch.equal(began[name], ended[f"module.{name}"])


def test_a_quick_try_does_not_replace_weights_of_others(home, images, capsys):
    best = home / "models" / "nin.best.pth.tar"
    best.parent.mkdir()
    torch.save({"best_acc": 99.9, "state_dict": main.NIN().state_dict()}, best)
    before = best.read_bytes()
    main.main(["--cpu", "--data", str(images), "--epochs", "1", "--limit", "10"])
    assert "and stays" in capsys.readouterr().out and best.read_bytes() == before


def test_help_tells_which_network_is_meant_where_none_is_named(capsys):
    with pytest.raises(SystemExit):
        main.parse_args(["--help"])
    assert "network (default: nin; vgg_clips with --video without" in " ".join(capsys.readouterr().out.split())


def test_script_runs_from_the_root(tmp_path):
    """And those of MNIST and PyTorch_CIFAR10 from their folders, in their tests."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    torch.save({"best_acc": 1.0, "state_dict": main.NIN().state_dict()}, tmp_path / "nin")
    done = run_script("CIFAR_10/main.py", "--cpu", "--pretrained", tmp_path / "nin", "--fastMCD", tmp_path)
    assert done.returncode == 0 and "1 objects in 1 frames" in done.stdout, done.stderr


def bad_inputs(tmp_path):
    """Arguments, and words that the one line must have."""
    empty, text, tiny = tmp_path / "empty", tmp_path / "text.mp4", tmp_path / "tiny"
    empty.mkdir(), tiny.mkdir()
    text.write_text("no video")
    Image.new("RGB", (1, 1)).save(tiny / "a.png")
    torch.save({"arch": "LeNet_5", "state_dict": {"conv1.weight": torch.ones(1)}}, tmp_path / "lenet")
    torch.save({"state_dict": {"a": print}}, tmp_path / "code")
    return [
        (["--evaluate", "--pretrained", "none.pth.tar"], "no such file"),
        (["--evaluate", "--pretrained", tmp_path / "lenet"], "expected nin"),
        (["--evaluate", "--pretrained", tmp_path / "code"], "refused"),
        (["--fastMCD", tmp_path / "none"], "not there"),
        (["--multi_fastMCD", empty], "neither"),
        (["--multi_fastMCD", tiny], "1x1"),
        (["--arch", "nin", "--video", tmp_path / "none.mp4"], "No such file"),
        (["--arch", "nin", "--video", text], "text file"),
        (["--arch", "nin", "--video", empty], "nothing in it"),
        (["--arch", "nin", "--video", tiny], "1x1"),
        (["--multi_fastMCD", empty, "--label", "10"], "'10' is no label"),
        (["--arch", "LeNet_5"], "nin"),
        (["--video", text], "vgg_clips.best.pth.tar: no such file"),
        (["--wild", empty], "--wild goes with a network for clips"),
        (["--resume"], "no such file"),
        (["--blend", "1.5", "--pretrained", text], "--blend 1.5: expected a share between 0 and 1"),
        (["--blend", "0.5"], "and --pretrained"),
    ]


def test_bad_input_ends_in_one_line(home, images, tmp_path, capsys):
    (home / "models").mkdir()
    torch.save({"best_acc": 1.0, "state_dict": main.NIN().state_dict()}, home / "models" / "nin.best.pth.tar")
    for arguments, words in bad_inputs(tmp_path):
        with pytest.raises(SystemExit) as end:
            main.run(lambda case=arguments: main.main(["--data", str(images), *map(str, case)]))
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and words in error, (arguments, error)


def test_shipped_weights_are_a_trained_nin_with_its_log():
    saved = torch.load(SHIPPED, weights_only=True)
    assert saved["best_acc"] >= 70 and saved["arch"] == "nin" and (SHIPPED.parent / "nin.log.csv").exists()
    main.checkpoint.load_into(main.NIN(), SHIPPED, "nin")
