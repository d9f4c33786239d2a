"""PyTorch_CIFAR10: the networks against the published facts, the scripts as a person runs them."""
import contextlib
import csv
import io
import os
import shutil
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from tests.scripts import ROOT, load_script, run_script
from util.errors import InputError
from util.train import checkpoint, steps
from util.train.batches import Material, augmented_batches
from util.train.run import Files, Run

download = load_script("PyTorch_CIFAR10/cifar10_download.py")
main = load_script("PyTorch_CIFAR10/main.py")
networks = download.networks

SMALL = ["--classifier", "mobilenet_v2"]


# ---- The training's parts --------------------------------------------------------------------------------------------
def test_learning_rate_rises_for_30_percent_and_falls_as_half_a_cosine():
    rates = [0.01 * main.warm_cosine(i / 100) for i in range(101)]
    assert rates[0] == rates[100] == pytest.approx(1e-8) and max(rates) == rates[30] == pytest.approx(0.01)
    assert rates[15] == pytest.approx(0.005, rel=1e-4)
    weight = nn.Parameter(torch.zeros(1))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], 0.01), 70, 1e-8)
    for i in range(30, 100):
        assert rates[i] == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        scheduler.optimizer.step()
        scheduler.step()


def test_crop_is_one_of_the_81_of_a_black_rimmed_image_or_its_mirror_image():
    images = torch.randint(1, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (4, 4), (4, 4)])
    cropped = main.crop_and_mirror(images, torch.arange(40), 1, torch.Generator().manual_seed(0)).numpy()
    sides, places = [], []
    for i in range(40):
        windows = {(y, x): padded[i, :, y : y + 32, x : x + 32] for y in range(9) for x in range(9)}
        found = [(side, place) for place, window in windows.items() for side in (1, -1) if np.array_equal(cropped[i][..., ::side], window)]
        assert len(found) == 1
        sides.append(found[0][0])
        places.append(found[0][1])
    assert len(set(places)) > 15 and 10 < sides.count(1) < 30


def test_shift_is_one_of_25_of_a_mirrored_rim_and_every_other_epoch_shows_the_other_side():
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    indices = torch.arange(40) * 3
    sides = {}
    for epoch in (1, 2, 3):
        moved = main.shift_and_alternate(images, indices, epoch, torch.Generator().manual_seed(epoch)).numpy()
        for i in range(40):
            for side in (1, -1):
                padded = np.pad(images[i].numpy()[..., ::side], [(0, 0), (2, 2), (2, 2)], mode="reflect")
                if any(np.array_equal(moved[i], padded[:, y : y + 32, x : x + 32]) for y in range(5) for x in range(5)):
                    sides.setdefault(i, []).append(side)
    assert sorted(map(tuple, sides.values())) == [(-1, 1, -1)] * 20 + [(1, -1, 1)] * 20


def test_triangle_rises_from_a_fifth_and_ends_at_seven_percent():
    shares = [main.triangle(i / 100) for i in range(101)]
    assert shares[0] == 0.2 and shares[23] == max(shares) == pytest.approx(1) and shares[100] == pytest.approx(0.07)
    assert np.allclose(np.diff(shares[:24]), 0.8 / 23) and np.allclose(np.diff(shares[23:]), -0.93 / 77)
    assert main.triangle(1, end=0) == pytest.approx(0) and main.triangle(0.615, end=0) == pytest.approx(0.5)


def test_whitening_makes_patches_uncorrelated_with_unit_variance():
    generator = torch.Generator().manual_seed(0)
    x = F.avg_pool2d(torch.randn(200, 3, 34, 34, generator=generator), 3, 1)  # neighbours alike, as in pictures
    x = x + 0.5 * x.mean(1, keepdim=True)
    model = networks.NETWORKS["airbench"]()
    model.fit_whitening(x)
    y = model.whiten(x).double()
    assert torch.allclose(y[:, :12], -y[:, 12:], atol=1e-5)
    moments = torch.einsum("nchw,ndhw->cd", y[:, :12], y[:, :12]) / y[:, 0].numel()
    patches = np.lib.stride_tricks.sliding_window_view(x.numpy(), (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    variances = np.linalg.eigvalsh(patches.T.astype(float) @ patches / len(patches))
    expected = np.diag(variances / (variances + 5e-4))
    assert np.allclose(moments.detach().numpy(), expected, atol=1e-3)


def test_airbench_block_starts_as_a_copy_of_its_input():
    block = networks.AirbenchBlock(8, 12)
    x = torch.randn(2, 8, 6, 6)
    assert torch.allclose(block.conv1(x)[:, :8], x, atol=1e-6) and block.conv1(x)[:, 8:].std() > 0.1
    assert torch.allclose(block.conv2(torch.cat([x, x[:, :4]], 1)), torch.cat([x, x[:, :4]], 1), atol=1e-6)
    assert not block.norm1.weight.requires_grad and block.norm1.bias.requires_grad


def test_airbench_biases_of_batch_norm_learn_64_times_as_fast_and_decay_no_faster():
    model = networks.NETWORKS["airbench"]()
    optimizer = main.airbench_sgd(model, 0.5)
    steps.set_lr(optimizer, 0.5)
    plain, biases = optimizer.param_groups
    assert {id(p) for p in biases["params"]} == {id(m.bias) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    frozen = {id(model.whiten.weight), *(id(m.weight) for m in model.modules() if isinstance(m, nn.BatchNorm2d))}
    assert {id(p) for group in (plain, biases) for p in group["params"]} == {id(p) for p in model.parameters()} - frozen
    assert (plain["lr"], biases["lr"]) == (0.5, 32) and plain["lr"] * plain["weight_decay"] == biases["lr"] * biases["weight_decay"]


def test_lookahead_keeps_a_running_mean_and_ends_on_it():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer, mean, steps = torch.optim.SGD([weight], 1.0, momentum=0.5), None, []
    for step in range(1, 7):
        weight.grad = torch.tensor([0.5, step / 3])
        optimizer.step()
        before = weight.detach().clone().double()
        pull = 1 if step == 6 else 0.95**5 * (step / 6) ** 3
        mean = before if mean is None else pull * mean + (1 - pull) * before
        main.lookahead(optimizer, step / 6)
        steps.append((weight.detach().double() - before).abs().max())
        assert torch.allclose(weight.detach().double(), mean, atol=1e-6)
    assert steps[0] == 0 and steps[-1] > 0.1


def test_fast_bf16_is_what_the_processor_says(monkeypatch):
    for amx, avx512, fast in [(False, False, False), (True, False, True), (False, True, True)]:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512, raising=False)
        assert steps.fast_bf16(torch.device("cpu")) is fast
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert steps.fast_bf16(torch.device("cpu")) is False


def test_an_epoch_learns_the_same_from_the_same_seed_and_in_bfloat16_too(tmp_path):
    labels = torch.arange(40) % 10
    images = (labels * 25).view(-1, 1, 1, 1).expand(40, 3, 32, 32).to(torch.uint8)
    losses = {}
    recipe = replace(main.PUBLISHED, epochs=4, lr=0.1, batch_size=16, optimizer=partial(main.plain_sgd, weight_decay=0))
    material = Material(augmented_batches(images, labels, recipe), 40, steps.loss_for(None), (images, labels), images)
    for bf16 in (False, False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 10))
        learner = steps.Learner(model, recipe, steps.Machine(torch.device("cpu"), bf16))
        training = Run(Files(tmp_path, "tiny"), recipe, learner, {"arch": "tiny", "seed": 1}, "")
        while not training.over:
            main.train_epoch(learner, material, main.STD, training)
            training.end_epoch(0.0, model)
        found = [row.loss for row in training.rows]
        assert found[-1] < found[0] and [row.lr for row in training.rows][-1] < 0.01
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
    """What the training of the smallest network prints; its files are in `room`."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(networks, "STATE_DICTS", room / "state_dicts")
        main.main([*SMALL, "--cpu", "--data", str(images), "--epochs", "2", "--batch-size", "8"])
    return printed.getvalue()


def test_training_writes_weights_log_and_curve(trained, room):
    assert "epoch   2" in trained and "of the test images right" in trained
    names = {"mobilenet_v2.pt", "mobilenet_v2.last.pth.tar", "mobilenet_v2.log.csv", "mobilenet_v2.curve.png"}
    assert set(os.listdir(room / "state_dicts")) == names
    state = checkpoint.load(room / "state_dicts" / "mobilenet_v2.pt")["state_dict"]
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in networks.mobilenet_v2().state_dict().items()}
    assert all(value.dtype == torch.float16 for value in state.values() if value.dim() > 1)
    assert (room / "state_dicts" / "mobilenet_v2.pt").stat().st_size < 5e6


@pytest.mark.parametrize("argv", [["--classifier", "airbench", "--wild", "d"], ["--classifier", "airbench_clips"]])
def test_wild_images_and_a_network_for_clips_go_together(argv):
    with pytest.raises(InputError, match="--wild DIR and a network for clips .* go together"):
        main.parse_args(argv)


def test_a_teacher_of_photographs_alone_is_refused_beside_wild_images():
    with pytest.raises(InputError, match="--teacher knows nothing of the images of --wild"):
        main.parse_args(["--classifier", "airbench_clips", "--wild", "d", "--teacher", "a.safetensors"])


@pytest.mark.parametrize("verb", [["--evaluate"], []])
def test_somebodys_own_classes_are_left_to_the_other_script(tmp_path, monkeypatch, verb):
    monkeypatch.setattr(main.networks, "STATE_DICTS", tmp_path)
    checkpoint.save(tmp_path / "mobilenet_v2.pt", {"state_dict": networks.mobilenet_v2().state_dict(), "best_acc": 1.0})
    crops = tmp_path / "crops"
    for name in ("blue", "red"):
        (crops / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), name).save(crops / name / "0.png")
    with pytest.raises(InputError, match="crops: is no CIFAR-10, .* CIFAR_10/main.py --data learns others"):
        main.main([*SMALL, "--cpu", "--data", str(crops), *verb])
    assert sorted(os.listdir(crops)) == ["blue", "red"]


@pytest.mark.parametrize(("classes", "right"), [(None, 0), (10, 1)])
def test_accuracy_is_of_the_classes_that_are_asked_for(classes, right):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 12))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, *[0.0] * 10, 2.0])  # most like the twelfth class, of the first ten most like the first
    images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    assert main.predict.evaluate(model, main.spec_of("airbench_clips", main.STD), images, labels, classes) == right


class TinyForClips(nn.Sequential):
    """Stands for a network for clips: its training is the same."""

    def __init__(self):
        super().__init__(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 12))


def test_a_network_for_clips_learns_people_and_what_is_foreign(images, tmp_path, monkeypatch, capsys):
    for table in (main.networks.FOR_CLIPS, main.networks.ALL):
        monkeypatch.setitem(table, "tiny_clips", TinyForClips)
    monkeypatch.setattr(main.networks, "STATE_DICTS", tmp_path)
    wild = tmp_path / "wild"
    for name, sources in {"cat": ["tabby"], "person": ["people", "kimono"], "other": ["brick", "coral"]}.items():
        (wild / name).mkdir(parents=True)
        for source in sources:
            for i in range(11):
                Image.fromarray(np.full((32, 32, 3), 9 * i, np.uint8)).save(wild / name / f"{source}_{i:05d}.png")
    argv = ["--cpu", "--classifier", "tiny_clips", "--data", str(images), "--wild", str(wild)]
    main.main([*argv, "--epochs", "2", "--batch-size", "64"])
    saved = checkpoint.load(tmp_path / "tiny_clips.pt")
    assert saved["spec"]["classes"][-2:] == ["person", "other"] and saved["state_dict"]["2.weight"].shape == (12, 48)
    accuracy = main.main([*argv[:-2], "--evaluate"])  # of ten classes
    assert f"tiny_clips: {100 * accuracy:.2f} % of the test images right" in capsys.readouterr().out


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
    assert all(row["label"] in (*main.CLASSES, "unknown") and 0.1 <= float(row["probability"]) <= 1 for row in found)


@pytest.fixture
def call(trained, room, monkeypatch):
    """A function (script's name, arguments) -> what its main returns, here in this process, since starting one takes seconds."""
    monkeypatch.setattr(networks, "STATE_DICTS", room / "state_dicts")
    monkeypatch.setitem(sys.modules, "main", main)  # which cifar10_test.py imports
    scripts = {"main": main, "cifar10_download": download, "cifar10_test": load_script("PyTorch_CIFAR10/cifar10_test.py")}
    return lambda name, arguments: scripts[name].main([str(argument) for argument in arguments])


def test_printed_accuracy_is_that_of_the_written_file(call, trained, images):
    found = call("main", [*SMALL, "--data", images, "--evaluate", "--cpu"])
    assert f"): {100 * found:.2f} % of the test images right" in trained


def test_resumed_training_of_airbench_is_the_uninterrupted_one_bit_for_bit(call, room, images, monkeypatch, capsys):
    arguments = ["--classifier", "airbench", "--cpu", "--data", images, "--epochs", 3, "--batch-size", 4]
    states, last = [], room / "state_dicts" / "airbench.last.pth.tar"
    call("main", arguments)
    states.append(torch.load(last, weights_only=True)["state_dict"])
    with monkeypatch.context() as patch:
        train_epoch = main.train_epoch

        def interrupted(*given):
            if given[-1].epoch == 1:
                raise KeyboardInterrupt
            return train_epoch(*given)

        patch.setattr(main, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call("main", arguments)
    assert torch.load(last, weights_only=True)["epoch"] == 1
    call("main", [*arguments, "--resume"])
    states.append(torch.load(last, weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert torch.equal(states[0]["whiten.weight"][:12], -states[0]["whiten.weight"][12:])  # set from the images
    with pytest.raises(InputError, match="was trained with old_std None, not True; repeat its options"):
        call("main", [*arguments, "--resume", "--old-std"])
    saved = torch.load(last, weights_only=True)
    torch.save(saved | {"settings": saved["settings"] | {"old_std": True}}, last)
    with pytest.raises(InputError, match="was trained with old_std True, not None; repeat its options"):
        call("main", [*arguments, "--resume"])


def test_logits_are_the_mean_of_what_the_network_says_of_an_image_and_its_mirror_image(call, room, images):
    call("main", [*SMALL, "--data", images, "--cpu", "--no-bf16", "--logits", room / "logits.safetensors"])
    found = checkpoint.load_tensors(room / "logits.safetensors")["logits"]
    model = networks.load("mobilenet_v2").eval()
    x, _ = main.load_data(main.parse_args(["--data", str(images)]), train=True)
    with torch.no_grad():
        expected = (model(main.preprocess(x, main.STD)) + model(main.preprocess(x.flip(3), main.STD))) / 2
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_each_network_has_its_own_recipe_which_flags_override(call):
    lines = [["vgg11_bn"], ["airbench"], ["mobilenet_v2"], ["airbench", "--epochs", "3", "--no-bf16"]]
    given = [main.parse_args(["--classifier", *words]) for words in lines]
    recipes = [main.recipe_for(args) for args in given]
    assert [(r.epochs, r.lr, r.batch_size) for r in recipes] == [(100, 0.01, 256), (18, 1.5, 1024), (16, 0.1, 128), (3, 1.5, 1024)]
    assert [args.bf16 for args in given] == [None, None, None, False]


@pytest.mark.parametrize(("flags", "std"), [([], main.STD), (["--old-std"], main.OLD_STD)])
def test_images_are_standardised_as_the_file_says_or_else_the_flags(tmp_path, monkeypatch, flags, std):
    monkeypatch.setattr(main.predict, "accuracy", lambda network, *_: float(network.spec.std[0]))
    monkeypatch.setattr(main, "load_data", lambda *_, **__: ())
    saved = {"arch": "mobilenet_v2", "state_dict": networks.mobilenet_v2().state_dict(), "best_acc": 1.0}
    arguments = [*SMALL, "--cpu", "--evaluate", "--pretrained", str(tmp_path / "weights"), *flags]
    checkpoint.save(tmp_path / "weights", saved)
    assert main.main(arguments) == std[0]
    checkpoint.save(tmp_path / "weights", saved | {"spec": main.spec_of("mobilenet_v2", main.OLD_STD).to_dict()})
    assert main.main(arguments) == main.OLD_STD[0]


def test_both_scripts_evaluate_alike(call, images, capsys):
    found = [call("cifar10_test", [*SMALL, "--data", images]), call("main", [*SMALL, "--data", images, "--evaluate", "--cpu"])]
    assert found[0] == found[1] and found[0] in [i / 20 for i in range(21)]
    assert capsys.readouterr().out.splitlines() == [f"mobilenet_v2: {100 * found[0]:.2f} % of the test images right"] * 2


def test_flags_that_it_does_not_rename_reach_the_main_script(call, monkeypatch):
    seen = []
    monkeypatch.setattr(main, "main", lambda options: seen.append(main.parse_args(options)))
    words = "--notify http://localhost/ --notify-crop --record all --recordings r --keep 1GB --serve 8000 --start 2026-11-26T15:00:00Z"
    call("cifar10_test", [*SMALL, "--video", "a.mp4", *words.split(), "--old-std", "--cpu"])
    args = seen[0]
    assert (args.arch, args.video, args.evaluate, args.notify) == ("mobilenet_v2", "a.mp4", False, "http://localhost/")
    assert (args.record, str(args.recordings), str(args.keep), args.serve[1], args.old_std) == ("all", "r", "1GB", 8000, True)
    assert args.start is not None and args.notify_crop and args.cpu
    with pytest.raises(InputError, match="unrecognized arguments: --label1"):
        call("cifar10_test", [*SMALL, "--label1"])


def test_a_run_of_another_name_is_what_that_name_evaluates(call, room, images):
    with pytest.raises(InputError, match=r"mine\.pt: no such file"):
        call("main", [*SMALL, "--data", images, "--evaluate", "--cpu", "--name", "mine"])
    state = networks.mobilenet_v2().state_dict()
    state["classifier.1.bias"] = torch.tensor([0.0, 0, 0, 100, 0, 0, 0, 0, 0, 0])
    torch.save(state, room / "state_dicts" / "mine.pt")
    assert call("main", [*SMALL, "--data", images, "--evaluate", "--cpu", "--name", "mine"]) == 0.1
    call("main", [*SMALL, "--data", images, "--cpu", "--name", "mine", "--logits", room / "mine.safetensors"])
    assert (checkpoint.load_tensors(room / "mine.safetensors")["logits"].argmax(1) == 3).all()
    (room / "state_dicts" / "mine.pt").unlink()


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
