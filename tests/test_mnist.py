"""MNIST/main.py and demo.py: the file format, crops made to look like MNIST, learning, reading, the scripts as a person runs them."""
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.results import rows_of
from tests.scripts import ROOT, load_script, run_script
from util.binop import BinOp
from util.crops import prepare
from util.digits import to_mnist
from util.errors import InputError
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture
from util.train.predict import TorchNetwork

main = load_script("MNIST/main.py")
SHIPPED = ROOT / "MNIST" / "models" / "LeNet_5.best.pth.tar"
needs_mnist = pytest.mark.skipif(not (ROOT / "MNIST/data/MNIST/raw/t10k-images-idx3-ubyte").exists(), reason="MNIST is not in MNIST/data")
INKS = [(255, 255, 255), (70, 230, 255), (25, 20, 20), (190, 170, 255)]

SHAPES = {  # of XNOR-Net-PyTorch's LeNet_5, written down from its files
    "conv1.weight": (20, 1, 5, 5),
    "conv1.bias": (20,),
    "bn_conv1.running_mean": (20,),
    "bn_conv1.running_var": (20,),
    "bn_conv1.num_batches_tracked": (),
    "bin_conv2.bn.weight": (20,),
    "bin_conv2.bn.bias": (20,),
    "bin_conv2.bn.running_mean": (20,),
    "bin_conv2.bn.running_var": (20,),
    "bin_conv2.bn.num_batches_tracked": (),
    "bin_conv2.conv.weight": (50, 20, 5, 5),
    "bin_conv2.conv.bias": (50,),
    "bin_ip1.bn.weight": (50,),
    "bin_ip1.bn.bias": (50,),
    "bin_ip1.bn.running_mean": (50,),
    "bin_ip1.bn.running_var": (50,),
    "bin_ip1.bn.num_batches_tracked": (),
    "bin_ip1.linear.weight": (500, 800),
    "bin_ip1.linear.bias": (500,),
    "ip2.weight": (10, 500),
    "ip2.bias": (10,),
}


def drawn_crop(digit, seed, ground):
    """An RGB crop of a drawn digit on a textured ground, as the detector cuts it."""
    rng = np.random.default_rng([seed, digit])
    sprite = digit_sprite(digit, seed, int(rng.uniform(40, 80)), INKS[seed % len(INKS)])
    side = int(max(sprite.shape) * rng.uniform(1.1, 1.4))
    x, y = rng.uniform(0, 300, 2)
    middle = (x + side / 2 + rng.uniform(-2, 2), y + side / 2 + rng.uniform(-2, 2))
    scene = Scene(side, side, ground, camera_path(1, start=(x, y)), [Mover(sprite, lambda t: middle)], noise=3, seed=seed)
    return np.ascontiguousarray(scene.frame(0).image[..., ::-1])


def drawn_crops(count):
    ground = texture(450, 450, seed=8)
    return [drawn_crop(i % 10, i, ground) for i in range(count)], torch.arange(count) % 10


def shipped():
    model = main.LeNet5()
    main.checkpoint.load_into(model, SHIPPED, "LeNet_5")
    return model.eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A tiny data set as a folder: drawn digits, 28 x 28."""
    root = tmp_path_factory.mktemp("images")
    for k, split in enumerate(("train", "test")):
        for digit in range(10):
            (root / split / str(digit)).mkdir(parents=True)
            for i in range(3):
                sprite = digit_sprite(digit, 10 * k + i, 40)
                Image.fromarray(to_mnist(np.dstack([sprite[..., 3]] * 3))).save(root / split / str(digit) / f"{i}.png")
    return root


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder in the script's place, so that nothing is written into this one."""
    monkeypatch.setattr(main, "HERE", tmp_path)
    return tmp_path


# ---- The network -----------------------------------------------------------------------------------------------------
def test_state_dict_is_that_of_xnor_net_pytorch():
    model = main.LeNet5()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == SHAPES
    assert sum(p.numel() for p in model.parameters()) == 431_220
    assert sum(weight.numel() for weight in BinOp(model).weights) == 425_000
    assert list(dict(model.named_children())) == "conv1 bn_conv1 relu_conv1 pool1 bin_conv2 pool2 bin_ip1 ip2".split()


def test_binarized_net_learns_64_images_by_heart():
    torch.manual_seed(0)
    model = main.LeNet5()
    bin_op = BinOp(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    x, y = torch.randn(64, 1, 28, 28), torch.arange(64) % 10
    for _ in range(60):
        optimizer.zero_grad()
        with bin_op.binarized():
            logits = model(x)
            F.cross_entropy(logits, y).backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()
        if (logits.argmax(1) == y).all():
            return
    pytest.fail(f"only {(logits.argmax(1) == y).sum()} of 64 after 60 steps")


def test_augmentation_is_fixed_by_its_generator_and_mild():
    x = torch.from_numpy(prepare(drawn_crops(40)[0], main.SPEC))
    a, b, c = (main.augment(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == x.shape and a.min() >= 0 and a.max() < 255.01  # interpolation rounds
    overlap = [torch.corrcoef(torch.stack([p.flatten(), q.flatten().float()]))[0, 1] for p, q in zip(a, x, strict=True)]
    assert torch.tensor(overlap).median() > 0.5


# ---- Crops -----------------------------------------------------------------------------------------------------------
def test_crops_come_out_as_mnist_is_made():
    for crop in drawn_crops(30)[0]:
        image = to_mnist(crop)
        _, _, width, height = cv2.boundingRect((image > 60).astype(np.uint8))
        rows, columns = np.indices((28, 28))
        middle = (rows * image).sum() / image.sum(), (columns * image).sum() / image.sum()
        assert image.dtype == np.uint8 and image.shape == (28, 28) and image.max() == 255
        assert 18 <= max(width, height) <= 20 and middle == pytest.approx((13.5, 13.5), abs=1.01)
        assert np.median(image[[0, 1, -2, -1]]) == 0


def test_light_dark_and_coloured_digits_come_out_alike():
    rng = np.random.default_rng(0)
    alpha = cv2.copyMakeBorder(digit_sprite(5, 2, 50)[..., 3], 6, 6, 12, 12, cv2.BORDER_CONSTANT)[..., None] / 255
    grounds = [(20, 20, 20), (220, 210, 200), (60, 110, 60), (90, 90, 90)]
    inks = [(240, 240, 240), (30, 20, 40), (230, 90, 110), (190, 60, 60)]
    outcomes = []
    for ground, ink in zip(grounds, inks, strict=True):
        crop = np.float64(ground) * (1 - alpha) + np.float64(ink) * alpha + rng.normal(0, 2, alpha.shape)
        outcomes.append(to_mnist(crop.round().clip(0, 255).astype(np.uint8)).astype(float))
    assert all(np.abs(outcome - outcomes[0]).mean() < 6 for outcome in outcomes)


def test_what_looks_like_mnist_stays_as_it_is():
    for crop in drawn_crops(20)[0]:
        image = to_mnist(crop)
        again = to_mnist(np.dstack([image] * 3))
        assert np.abs(again.astype(float) - image).mean() < 8


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (300, 2), (2, 300), (5, 5)])
def test_no_crop_is_too_odd(size):
    crops = np.full((*size, 3), 77, np.uint8), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert all(to_mnist(crop).shape == (28, 28) for crop in crops)


# ---- The shipped weights ---------------------------------------------------------------------------------------------
def test_shipped_weights_read_drawn_digits():
    crops, truth = drawn_crops(200)
    logits = TorchNetwork(shipped(), main.SPEC)(prepare(crops, main.SPEC))
    assert logits.shape == (200, 10) and (logits.argmax(1) == truth.numpy()).mean() >= 0.98


@needs_mnist
def test_shipped_weights_are_as_good_as_they_say_and_so_are_crops():
    saved = torch.load(SHIPPED, weights_only=True)
    model = shipped()
    x, y = main.load_data(main.parse_args(["--data", str(ROOT / "MNIST/data")]), train=False)
    accuracy = main.predict.evaluate(model, main.SPEC, x, y)
    assert accuracy >= 0.9945 and 100 * accuracy == pytest.approx(saved["best_acc"], abs=0.02)
    crops = torch.from_numpy(prepare([np.dstack([image[0].numpy()] * 3) for image in x[:1500]], main.SPEC))
    plain, through_crops = (main.predict.evaluate(model, main.SPEC, images, y[:1500]) for images in (x[:1500], crops))
    assert through_crops >= plain - 0.005


# ---- The scripts -----------------------------------------------------------------------------------------------------
def test_train_evaluate_classify(home, images, capsys):
    accuracy = main.main(["--cpu", "--data", str(images), "--epochs", "12", "--batch-size", "8"])
    assert accuracy > 0.5  # drawn digits of another seed; chance is 0.1
    assert f"{100 * accuracy:.2f} % of the test images right" in capsys.readouterr().out
    assert set(os.listdir(home / "models")) == {f"LeNet_5.{name}" for name in ("best.pth.tar", "last.pth.tar", "log.csv", "curve.png")}
    assert main.main(["--cpu", "--evaluate", "--data", str(images)]) == accuracy
    main.main(["--cpu", "--fastMCD", str(images / "test" / "7"), "--label", "7", "--save", str(home / "out")])
    assert re.search(r"7: \d of 3 objects", capsys.readouterr().out)
    rows = rows_of(home / "out" / "predictions.csv")
    assert len(rows) == 3 and all(row["label"] in (*main.CLASSES, "unknown") for row in rows)


def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(home, images, monkeypatch):
    arguments = ["--cpu", "--data", str(images), "--epochs", "3", "--batch-size", "8"]
    last = home / "models" / "LeNet_5.last.pth.tar"
    main.main(arguments)
    whole = torch.load(last, weights_only=True)
    shutil.rmtree(home / "models")
    with monkeypatch.context() as patch:
        end_epoch = main.Run.end_epoch

        def interrupt(training, *rest):
            end_epoch(training, *rest)
            if training.epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(main.Run, "end_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main.main(arguments)
    main.main([*arguments, "--resume"])
    resumed = torch.load(last, weights_only=True)
    assert all(torch.equal(whole["state_dict"][key], value) for key, value in resumed["state_dict"].items())


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"best_acc": 1.0, "state_dict": {"xnor.0.weight": torch.ones(192, 3, 5, 5)}}, tmp_path / "nin")
    torch.save({"best_acc": 1.0, "state_dict": {**main.LeNet5().state_dict(), "ip2.bias": torch.ones(11)}}, tmp_path / "eleven")
    with pytest.raises(InputError, match="not a checkpoint of LeNet_5"):
        main.main(["--cpu", "--evaluate", "--pretrained", str(tmp_path / "nin")])
    with pytest.raises(InputError, match=r"ip2.bias is \(11,\), expected \(10,\)"):
        main.main(["--cpu", "--evaluate", "--pretrained", str(tmp_path / "eleven")])


def test_script_runs_from_its_folder(tmp_path):
    Image.fromarray(drawn_crops(1)[0][0]).save(tmp_path / "a.png")
    torch.save({"acc": 1.0, "state_dict": main.LeNet5().state_dict()}, tmp_path / "lenet")
    done = run_script("MNIST/main.py", "--cpu", "--pretrained", tmp_path / "lenet", "--fastMCD", tmp_path, cwd=ROOT / "MNIST")
    assert done.returncode == 0 and "1 objects in 1 frames" in done.stdout, done.stderr


def test_a_video_and_the_directory_made_of_it_show_the_same_objects(tmp_path):
    movers = [Mover(digit_sprite(d, d, 44), lambda t, d=d: (90 + 130 * (d % 2) + (3 - 6 * (d % 2)) * t, 100 + 50 * d), d) for d in range(3)]
    scene = Scene(240, 200, texture(500, 400, 1), camera_path(16, (40, 50), pan=(1, 0.3), shake=0.7), movers)
    (tmp_path / "clip").mkdir()
    for t, frame in enumerate(scene):
        cv2.imwrite(str(tmp_path / "clip" / f"{t:03}.png"), frame.image)
    main.main(["--cpu", "--video", str(tmp_path / "clip"), "--save", str(tmp_path / "out")])
    video = rows_of(tmp_path / "out" / "predictions.csv")
    assert {row["track"] for row in video} > {"1"}
    main.main(["--cpu", "--multi_fastMCD", str(tmp_path / "out"), "--save", str(tmp_path / "named")])
    single = rows_of(tmp_path / "named" / "predictions.csv")
    places = ["frame", "object", "x", "y", "width", "height"]
    assert len(video) > 10 and [[row[key] for key in places] for row in single] == [[row[key] for key in places] for row in video]


def test_demo(tmp_path):
    done = run_script("MNIST/demo.py", "--frames", "120", "--save", tmp_path / "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    recall, precision, right = map(float, re.findall(r"([\d.]+)%", done.stdout))
    assert recall > 80 and precision > 90 and right > 95
    assert sorted(os.listdir(tmp_path / "demo")) == ["demo.mp4", "demo.png"]
    with Image.open(tmp_path / "demo" / "demo.png") as picture:
        assert picture.width > 1000
    assert int(cv2.VideoCapture(str(tmp_path / "demo" / "demo.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == 120
