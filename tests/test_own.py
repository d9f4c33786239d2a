"""Networks for somebody's own classes: which folders and images are taken, how they are divided, what is kept of earlier weights."""
import os
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts import load_script
from util import packed
from util.crops import prepare
from util.errors import InputError
from util.train import augment, checkpoint, curve, data, head, own
from util.train.predict import TorchNetwork

cifar, mnist = load_script("CIFAR_10/main.py"), load_script("MNIST/main.py")
SPEC = replace(cifar.SPECS["resnet20"], classes=("blå", "red"), also_right={}, kinds={}, temperature=1.0, unknown_below=0.0)
COLOURS = {"blå": (30, 40, 200), "red": (200, 40, 30)}


def write(root, tracks=5, frames=2, classes=COLOURS, size=(30, 20)):
    """Crops of coloured things whose file names tell run and track."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for track in range(tracks):
            for frame in range(frames):
                pixels = np.clip(COLOURS.get(name, (90, 90, 90)) + rng.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
                alpha = np.zeros(size, np.uint8)
                alpha[3:-3, 3:-3] = 255
                Image.fromarray(np.dstack([pixels, alpha])).save(root / name / f"run-1_track{track:06d}_frame{frame:06d}.png")
    return root


# ---- Folders ---------------------------------------------------------------------------------------------------------
def test_a_folders_classes_are_its_own_unless_it_is_the_data_set(tmp_path):
    known = ["cat", "dog"]
    for split in ("train", "test"):
        for name in known:
            (tmp_path / "set" / split / name).mkdir(parents=True)
    (tmp_path / "mnist" / "MNIST" / "raw").mkdir(parents=True)
    for name in ("狗", "cat", ".hidden"):
        (tmp_path / "own" / name).mkdir(parents=True)
    (tmp_path / "part" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "part" / "train" / "cow").mkdir(parents=True)
    found = [data.own_classes(tmp_path / name, known) for name in ("set", "mnist", "own", "part", "none")] + [data.own_classes(None, known)]
    assert found == [None, None, ["cat", "狗"], ["cat", "cow"], None, None]


@pytest.mark.parametrize(("names", "words"), [
    (["cat"], "one class alone, cat"), (["cat", "Cat"], "'Cat' and 'cat' are one folder"), (["cat", "e\u0301", "\u00e9"], "one folder"),
    (["cat", "unknown"], "called other"), (["cat", "x" * 150], "can't be a class"), (["cat", "a\nb"], "can't be a class"),
    (["cat", "a:b"], "can't be a class"), (["cat", "cow."], "can't be a class"),
])  # fmt: skip
def test_folders_that_cant_be_classes_are_named(tmp_path, names, words):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=words) as error:
        data.own_classes(tmp_path, [])
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


# ---- Images ----------------------------------------------------------------------------------------------------------
def test_images_of_any_mode_and_size_are_read(tmp_path):
    grey = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    rgb = Image.merge("RGB", [grey, grey, grey.transpose(Image.FLIP_TOP_BOTTOM)])
    palette = rgb.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = 0
    made = {"rgb": rgb, "grey": grey, "palette": palette, "clear": clear, "la": grey.convert("LA"), "rgba": rgb.convert("RGBA"),
            "one": rgb.convert("1"), "deep": Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)}  # fmt: skip
    for name, image in made.items():
        image.save(tmp_path / f"{name}.png")
        read = own.read_rgba(tmp_path / f"{name}.png")
        assert read.dtype == np.uint8 and read.shape == (20, 30, 4 if name in ("clear", "la", "rgba") else 3), name
        if name in ("grey", "deep"):
            assert np.array_equal(read[..., 0], np.asarray(grey))
    thermal = np.asarray(grey).astype(np.uint16) * 16  # 12 bits in 16: stretched, or they would be a few grey levels
    Image.fromarray(thermal).save(tmp_path / "thermal.png")
    assert np.abs(own.read_rgba(tmp_path / "thermal.png")[..., 0] - 255 * (thermal / thermal.max())).max() <= 0.5
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("LAB").save(tmp_path / "lab.tif")  # its A is no alpha
    assert own.read_rgba(tmp_path / "cmyk.jpg").shape == own.read_rgba(tmp_path / "lab.tif").shape == (20, 30, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    rgb.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert own.read_rgba(tmp_path / "turned.jpg").shape == (30, 20, 3)
    rgb.resize((300, 1000)).save(tmp_path / "large.png")
    assert own.read_rgba(tmp_path / "large.png").shape == (own.SIDE, round(own.SIDE * 0.3), 3)


def test_a_folder_beside_train_that_is_not_called_test_is_told_and_left_out(tmp_path, capsys):
    write(tmp_path / "train"), write(tmp_path / "val")
    own.load(tmp_path, list(COLOURS))
    assert capsys.readouterr().out == f"{tmp_path}: val left out; what stands beside train is read if it is called test\n"


def test_files_that_are_no_images_are_told_and_left_out(tmp_path, capsys):
    write(tmp_path)
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", ".DS_Store"):
        (tmp_path / "red" / name).write_bytes(b"x")
    own.load(tmp_path, list(COLOURS))
    assert capsys.readouterr().out == f"{tmp_path / 'red'}: 2 left out, such as IMG_1.HEIC; images are {own.KINDS}\n"
    for path in (tmp_path / "red").glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"red: holds no images but IMG_1.HEIC; add some \(.*\.jpg"):
        own.load(tmp_path, list(COLOURS))


def spoil(path, kind):
    """Put in the place of the image at `path` what is none."""
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":
        def chunk(name, body):
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    else:
        path.write_bytes(content[:60] if kind == "cut" else b"")


@pytest.mark.parametrize(("kind", "words"), [
    ("fifo", "no regular file"), ("folder", "no regular file"), ("bomb", "9000x9000 pixels"),
    ("cut", "no image that"), ("empty", "no image that"),
])  # fmt: skip
def test_what_is_no_image_is_named_in_one_line(tmp_path, kind, words):
    victim = sorted((write(tmp_path) / "red").iterdir())[3]
    spoil(victim, kind)
    with pytest.raises(InputError, match=words) as error:
        own.load(tmp_path, list(COLOURS))
    assert victim.name in str(error.value) and "\n" not in str(error.value)


def test_classes_that_cant_be_divided_are_named(tmp_path):
    write(tmp_path / "one", tracks=1)
    with pytest.raises(InputError, match="all images of blå are one, or of one track"):
        own.load(tmp_path / "one", list(COLOURS))
    (write(tmp_path / "two") / "green").mkdir()
    with pytest.raises(InputError, match=r"green: holds no images"):
        own.load(tmp_path / "two", [*COLOURS, "green"])
    write(tmp_path / "three" / "train"), write(tmp_path / "three" / "test", classes=["red", "green"])
    with pytest.raises(InputError, match=r"test/green: no class of train/"):
        own.load(tmp_path / "three", list(COLOURS))


# ---- How they are divided --------------------------------------------------------------------------------------------
def test_no_track_is_on_two_sides_and_another_track_moves_few(tmp_path):
    parts = own.load(write(tmp_path, tracks=10), list(COLOURS))
    sides = [set(zip(part.tracks.tolist(), part.labels.tolist(), strict=True)) for part in parts]
    assert [len(side) for side in sides] == [12, 4, 4] and len(set.union(*sides)) == 20
    assert all(set(part.labels) == {0, 1} for part in parts)
    again = own.load(tmp_path, list(COLOURS))
    assert all(np.array_equal(a.tracks, b.tracks) and np.array_equal(a.labels, b.labels) for a, b in zip(parts, again, strict=True))
    Image.new("RGB", (9, 9)).save(tmp_path / "red" / "alone.png")  # a track of its own
    more = own.load(tmp_path, list(COLOURS))
    assert sum(len(set(a.tracks) ^ set(b.tracks)) for a, b in zip(parts, more, strict=True)) <= 3


def test_two_tracks_are_enough_and_a_test_folder_is_taken_as_it_is(tmp_path):
    learnt, held_out, test = own.load(write(tmp_path / "two", tracks=2), list(COLOURS))
    assert set(held_out.tracks) == set(test.tracks) and not set(learnt.tracks) & set(test.tracks)
    write(tmp_path / "split" / "train"), write(tmp_path / "split" / "test", tracks=3, classes=["red"])
    learnt, held_out, test = own.load(tmp_path / "split", list(COLOURS))
    assert len(test.images) == 6 and set(test.labels) == {1} and len(learnt.images) + len(held_out.images) == 20


def test_a_test_folder_alone_is_enough_to_test_and_train_is_not_read_for_it(tmp_path):
    write(tmp_path / "set" / "test", tracks=3)
    tested = own.load_test(tmp_path / "set", ["blå", "green", "red"])
    assert len(tested.images) == 12 and set(tested.labels) == {0, 2}
    with pytest.raises(InputError, match=r"set: has test/ to test with, but no train/"):
        own.load(tmp_path / "set", list(COLOURS))
    for name in COLOURS:
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        (tmp_path / "set" / "train" / name / "a.png").write_bytes(b"no image")
    assert len(own.load_test(tmp_path / "set", ["blå", "green", "red"], limit=4).images) == 4


def test_images_become_exactly_what_crops_of_a_clip_become(tmp_path):
    part = own.load(write(tmp_path), list(COLOURS))[2]
    images, labels = part.prepared(SPEC)
    raw = sorted((tmp_path / "red").glob(f"{part.tracks[part.labels == 1][0]}_*"))
    crops = [cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA) for path in raw]
    assert np.array_equal(images[labels == 1].numpy(), prepare(crops, SPEC))


@pytest.mark.parametrize("most", [1, 7, 20, 50, 100])
def test_a_limit_draws_evenly_over_the_classes_and_always_the_same(most):
    labels = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    images = torch.arange(100).view(-1, 1, 1, 1)
    some, of = data.subset(images, labels, most)
    counts = np.bincount(of, minlength=3)
    assert len(of) == most and (most < 3 or all(count >= min(most // 3, size) for count, size in zip(counts, (80, 15, 5), strict=True)))
    assert torch.equal(labels[some.flatten()], of) and (some.flatten().diff() > 0).all()
    assert torch.equal(some, data.subset(images, labels, most)[0])
    assert most < 7 or some.flatten()[0] != 0 or some.flatten()[1] != 1 or most > 80  # not the first ones


# ---- Training --------------------------------------------------------------------------------------------------------
def test_batches_have_as_many_of_each_class_and_are_fixed_by_their_numbers(tmp_path):
    write(tmp_path, tracks=4)
    for path in sorted((tmp_path / "red").iterdir())[4:]:
        path.unlink()  # fewer of one
    own_images = own.OwnImages(tmp_path, SPEC, 400, 0.0)
    images, labels, indices = own_images.batch(1, 2)
    assert images.shape == (400, 3, 32, 32) and images.dtype == torch.uint8 and abs(labels.sum() - 200) < 50
    assert torch.equal(labels, torch.from_numpy(own_images.learnt.labels)[indices]) and torch.equal(images, own_images.batch(1, 2)[0])
    assert not torch.equal(images, own_images.batch(1, 3)[0])
    blue, red = (images[labels == label].float().mean((0, 2, 3)) for label in (0, 1))
    assert blue[2] > blue[0] + 5 and red[0] > red[2] + 5  # they still show it
    judged = own_images.validation()[1]
    assert (judged == 0).sum() == (judged == 1).sum() > 0


@pytest.mark.parametrize("channels", [3, 4])
def test_a_crop_seen_again_is_a_like_crop(channels):
    crop = np.zeros((40, 30, channels), np.uint8)
    crop[..., :3], crop[10:30, 8:22, :3] = (60, 60, 60), (200, 60, 60)
    if channels == 4:
        crop[8:32, 6:24, 3] = 255
    seen = [augment.augment_crop(crop, np.random.default_rng(i)) for i in range(60)]
    shapes = {s.shape for s in seen}
    assert shapes <= {(side, side, 4) for side in augment.SIZES} and len(shapes) > 2 and all(s.dtype == np.uint8 for s in seen)
    middle = np.array([s[len(s) // 2, len(s) // 2].astype(float) for s in seen])
    assert (middle[:, 0] > middle[:, 2] + 20).mean() > 0.8 and (middle[:, 3] == 255).mean() > 0.9
    if channels == 4:
        shares = np.array([(s[..., 3] > 127).mean() for s in seen])
        assert 0.25 < np.median(shares) < 0.6 and (shares == 1).any()  # its mask, grown or shrunk; now and then none


def test_another_head_on_the_same_body(tmp_path, capsys):
    torch.manual_seed(0)
    old = cifar.MODELS["resnet20"]().eval()
    checkpoint.save(tmp_path / "old", {"arch": "resnet20", "state_dict": old.state_dict()})
    spec = replace(SPEC, classes=("red", "truck", "cat"))
    model = cifar.MODELS["resnet20"](classes=3).eval()
    assert checkpoint.start_from(model, tmp_path / "old", spec, {"resnet20": cifar.CLASSES}) == "resnet20"
    assert capsys.readouterr().out == f"{tmp_path / 'old'}: body kept; head new for red\n"
    for key, value in model.state_dict().items():
        if not key.startswith("classifier"):
            assert torch.equal(value, old.state_dict()[key]), key
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(model(x)[:, 1:], old(x)[:, [9, 3]])
    checkpoint.save(tmp_path / "own", {"arch": "resnet20", "state_dict": model.state_dict(), "spec": spec.to_dict()})
    again = cifar.MODELS["resnet20"](classes=3)
    checkpoint.start_from(again, tmp_path / "own", spec, {"resnet20": cifar.CLASSES})
    assert capsys.readouterr().out == "" and torch.equal(again.classifier.weight, model.classifier.weight)
    with pytest.raises(InputError, match="holds resnet20, expected vgg"):
        checkpoint.start_from(cifar.VGG(), tmp_path / "own", cifar.SPECS["vgg"], {"vgg": cifar.CLASSES})
    checkpoint.save(tmp_path / "bad", {"arch": "resnet20", "state_dict": model.state_dict()})  # three rows, said to be ten
    model, spec = cifar.MODELS["resnet20"](classes=4), replace(SPEC, classes=tuple("abcd"))
    with pytest.raises(InputError, match="classifier.bias is"):
        checkpoint.start_from(model, tmp_path / "bad", spec, {"resnet20": cifar.CLASSES})
    assert capsys.readouterr().out == ""  # nothing was kept


@pytest.mark.filterwarnings("error")
def test_a_confusion_matrix_is_drawn_of_names_in_any_script(tmp_path):
    curve.plot_confusion(tmp_path / "c.png", np.eye(2, dtype=int), ["狗", "🚋"], "street: 100.0% of 2 test images")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width > 100


def test_calibration_and_confusion_by_hand():
    logits = 2.0 * np.log(np.array([[0.9, 0.1], [0.6, 0.4]] * 500))
    labels = np.array([0] * 500 + [0] * 300 + [1] * 200)
    at = np.r_[np.arange(0, 1000, 2), np.arange(1, 1000, 2)]
    labels = np.where(np.arange(1000) % 10 == 9, 1, 0)  # a tenth of all
    spec = own.calibrated(SPEC, logits[at], labels)
    temperatures = np.geomspace(*own.TEMPERATURES, 400)
    best = min(temperatures, key=lambda t: torch.nn.functional.cross_entropy(torch.tensor(logits[at] / t), torch.tensor(labels)))
    assert spec.temperature == pytest.approx(best, rel=0.01) and 0 < spec.unknown_below <= own.MAX_UNSURE
    counts = own.confusion(np.array([[2.0, 1, 0], [0, 1, 2], [0, 2, 1], [0, 0, 1]]), np.array([0, 0, 1, 2]))
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    text = curve.confusion_table(counts, ["a", "b", "c"]).splitlines()
    assert text[0].split() == ["a", "b", "c", "right"] and text[1].split() == ["a", "1", "0", "1", "50.0%"]


def test_held_out_images_calibrate_and_those_of_the_test_are_counted(tmp_path):
    def network(images):  # answers at random, of each image the same
        return np.stack([np.random.default_rng(int(image.sum())).normal(size=2) for image in images]).astype(np.float32)

    own_images = own.OwnImages(write(tmp_path, tracks=10), SPEC, 8, 0.0)
    spec, counts = own.test_and_calibrate(own_images, network)
    held_out, test = ([part.numpy() for part in parts] for parts in (own_images.validation(), own_images.test.prepared(SPEC)))
    by_held_out, by_test = (own.calibrated(SPEC, network(images), labels) for images, labels in (held_out, test))
    assert spec == by_held_out != by_test and np.array_equal(counts, own.confusion(network(test[0]), test[1]))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "EPOCH", 32)
    monkeypatch.setitem(own.FINE_TUNING, "batch_size", 16)
    monkeypatch.setattr(own, "VALIDATED", 4)
    monkeypatch.setattr(head, "IMAGES", 64)
    for script in (cifar, mnist):
        monkeypatch.setattr(script, "HERE", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("script", "arch"), [(cifar, "resnet20"), (mnist, "LeNet_5")])
def test_a_network_of_own_classes_is_trained_evaluated_and_trained_anew(home, script, arch, capsys):
    crops = write(home / "crops", size=(30, 26))
    arguments = ["--cpu", "--arch", arch, "--data", str(crops)]
    accuracy = script.main([*arguments, "--epochs", "1"])
    printed = capsys.readouterr().out
    best = home / "models" / f"{arch}.crops.best.pth.tar"
    assert "2 classes (blå red); images: 12 of 6 tracks learnt, 4 of 2 tracks held out, 4 of 2 tracks test" in printed
    exported = home / "models" / f"{arch}.crops.xnor"
    assert f"written: {best}" in printed and "right" in printed and f"util.watch CLIP --network {exported} --save" in printed
    assert packed.load(exported).spec.classes == ("blå", "red")
    ends = ("best.pth.tar", "last.pth.tar", "log.csv", "curve.png", "confusion.png", "xnor")
    assert {path.name for path in best.parent.iterdir()} == {f"{arch}.crops.{end}" for end in ends}
    saved = checkpoint.load(best)
    assert saved["spec"]["classes"] == ["blå", "red"] and own.TEMPERATURES[0] <= saved["spec"]["temperature"] <= own.TEMPERATURES[1]
    assert script.main([*arguments, "--evaluate", "--name", f"{arch}.crops", "--engine", "torch"]) == accuracy
    assert script.main([*arguments, "--evaluate", "--name", f"{arch}.crops", "--limit", "2"]) in (0, 0.5, 1)
    # Another class later: the weights go on, and earlier ones, judged on other images, are kept beside.
    write(crops, classes=["grey"])
    script.main([*arguments, "--epochs", "1", "--pretrained", str(best)])
    printed = capsys.readouterr().out
    assert "body kept; head new for grey" in printed and f"kept as {best.with_name(f'{arch}.crops.earlier.pth.tar')}" in printed
    assert len(checkpoint.load(best)["spec"]["classes"]) == 3
    with pytest.raises(InputError, match="grey, which the network lacks"):
        script.main([*arguments, "--evaluate", "--pretrained", str(best.with_name(f"{arch}.crops.earlier.pth.tar"))])
    with pytest.raises(InputError, match="'3' is no label; expected 0-2 or one of blå grey red"):
        script.main(["--cpu", "--arch", arch, "--pretrained", str(best), "--fastMCD", str(crops / "red"), "--label", "3"])
    script.main(["--cpu", "--arch", arch, "--pretrained", str(best), "--fastMCD", str(crops / "red"), "--label", "red"])
    assert "red: " in capsys.readouterr().out


def test_a_run_on_own_classes_begins_with_weights_that_ship_replaces_none_and_resumes_on_its_own_alone(home, capsys):
    models = home / "models"
    state = cifar.MODELS["resnet20"]().state_dict()
    checkpoint.save(models / "resnet20.best.pth.tar", {"arch": "resnet20", "state_dict": state, "held_out": "x"})
    before = (models / "resnet20.best.pth.tar").read_bytes()
    arguments = ["--cpu", "--arch", "resnet20", "--epochs", "1", "--data"]
    crops = write(home / "crops")
    assert cifar.parse_args(["--data", str(crops)]).arch == "vgg_clips"
    cifar.main([*arguments, str(crops), "--name", "resnet20"])  # on purpose
    assert f"{models / 'resnet20.best.pth.tar'}: body kept; head new for blå red" in capsys.readouterr().out
    assert not list(models.glob("*.xnor"))
    assert (models / "resnet20.best.pth.tar").read_bytes() == before and not list(models.glob("*earlier*"))
    with pytest.raises(InputError, match="was trained with classes blå, red"):
        cifar.main([*arguments, str(write(home / "more", classes=["red", "grey"])), "--name", "resnet20", "--resume"])
    Image.new("RGB", (30, 20)).save(crops / "red" / "run-1_track000000_frame000009.png")  # of a track that is learnt from, or is held out
    with pytest.raises(InputError, match="was trained with images 12, not 13|was trained on other images"):
        cifar.main([*arguments, str(crops), "--name", "resnet20", "--resume"])
    for i in range(30):
        Image.new("RGB", (30, 20)).save(crops / "red" / f"b{i}.png")
    with pytest.raises(InputError, match="was trained with images 12, not 3|was trained on other images"):
        cifar.main([*arguments, str(crops), "--name", "resnet20", "--resume"])


def test_flags_that_know_nothing_of_own_classes_are_refused(home):
    arguments = ["--cpu", "--arch", "resnet20", "--data", str(write(home / "crops"))]
    with pytest.raises(InputError, match="without --teacher or --wild"):
        cifar.main([*arguments, "--teacher", "logits.safetensors"])


def test_a_run_whose_weights_are_not_kept_leaves_no_picture_of_them(home, monkeypatch):
    monkeypatch.setattr(cifar.Run, "finish", lambda *a: False)
    cifar.main(["--cpu", "--arch", "resnet20", "--data", str(write(home / "crops")), "--epochs", "1"])
    assert [path.name for path in (home / "models").iterdir()] == ["resnet20.crops.last.pth.tar"]


def test_a_training_that_gets_no_better_ends(home, monkeypatch, capsys):
    crops = write(home / "crops")
    monkeypatch.setitem(own.FINE_TUNING, "patience", 1)
    monkeypatch.setattr(cifar.predict, "evaluate", lambda *a: 0.5)
    cifar.main(["--cpu", "--arch", "resnet20", "--data", str(crops), "--epochs", "9"])
    assert capsys.readouterr().out.count("held out 50.00 %\n") == 3  # twice as patient without --pretrained


def test_a_resumed_training_is_blended_with_what_the_whole_one_is(home, monkeypatch):
    monkeypatch.setattr(own, "EPOCH", 64)  # two steps
    old = home / "old"
    checkpoint.save(old, {"arch": "resnet20", "state_dict": cifar.MODELS["resnet20"]().state_dict()})
    arguments = ["--cpu", "--arch", "resnet20", "--data", str(write(home / "crops")), "--name", "mine", "--pretrained", str(old)]
    arguments += ["--blend", "0.5", "--batch-size", "32", "--epochs"]
    last, heads = home / "models" / "mine.last.pth.tar", []
    for more in ([], ["--resume"]):  # which blends again
        cifar.main([*arguments, "1", *more])
        heads.append(torch.load(last, weights_only=True)["best"]["state_dict"]["classifier.weight"])
    assert torch.equal(*heads)


def test_classes_of_an_earlier_network_mean_their_own_names_else_their_kinds_else_other():
    clips = cifar.SPECS["vgg_clips"]

    def named(classes):
        return {name: classes[i] if i >= 0 else None for name, i in zip(clips.classes, head.class_mapping(clips, classes), strict=True)}

    assert named(["other", "person", "vehicle"]) == {
        **dict.fromkeys(clips.classes, "other"), **dict.fromkeys(cifar.KINDS["vehicle"], "vehicle"), "person": "person"
    }  # fmt: skip
    assert named(["truck", "vehicle"]) | {"person": None} == {
        **dict.fromkeys(clips.classes), **dict.fromkeys(cifar.KINDS["vehicle"], "vehicle"), "truck": "truck"
    }  # fmt: skip


def test_an_earlier_network_answers_in_the_classes_that_it_knows(tmp_path, capsys):
    torch.manual_seed(0)
    old, path = cifar.VGG(classes=12).eval(), tmp_path / "old"
    torch.nn.init.normal_(old.classifier.weight, 0, 0.05)  # answers in between, where temperature and prior count
    checkpoint.save(path, {"arch": "vgg_clips", "state_dict": old.state_dict()})
    spec = replace(SPEC, arch="vgg_clips", classes=("forklift", "other", "person", "vehicle"))
    features, labels = torch.randn(8, 512), torch.arange(8) % 4
    answers = head.soft_targets(path, cifar.SPECS, spec, cifar.VGG(classes=4))(features, labels)
    assert capsys.readouterr().out == f"{path}: teaches the head what it knows of other person vehicle\n"
    clips = cifar.SPECS["vgg_clips"]
    p = (old.classifier(features) / clips.temperature + torch.from_numpy(clips.log_prior())).softmax(1)  # as in a clip
    at = [clips.classes.index(name) for name in cifar.KINDS["vehicle"]]
    known = labels > 0
    torch.testing.assert_close(answers[known, 3], p[known][:, at].sum(1).float())
    torch.testing.assert_close(answers[known, 2], p[known, clips.classes.index("person")].float())
    torch.testing.assert_close(answers.sum(1), torch.ones(8))
    assert answers[~known].tolist() == [[1, 0, 0, 0]] * 2
    for classes in (("forklift", "other"), ("cats", "dogs")):
        assert head.soft_targets(path, cifar.SPECS, replace(spec, classes=classes), cifar.VGG(classes=2)) is None
    assert capsys.readouterr().out == ""
    head.soft_targets(path, cifar.SPECS, replace(spec, classes=("Person", "Vehicle", "truck")), cifar.VGG(classes=3))
    advice = "which is learnt from labels alone; call it {!r} if it means the same"
    assert capsys.readouterr().out.splitlines() == [f"{path}: knows no {n!r}, {advice.format(n.lower())}" for n in ("Person", "Vehicle")]


@pytest.mark.parametrize("taught, batch_size", [(False, 64), (True, 64), (True, 200)])  # the last more than the head is fitted on
def test_the_head_is_fitted_first_and_the_body_stays(tmp_path, monkeypatch, taught, batch_size):
    """No other head of that body says better what labels and, by half, an earlier network say: the loss has no slope where the head is."""
    monkeypatch.setattr(head, "IMAGES", 128)
    own_images = own.OwnImages(write(tmp_path / "crops"), SPEC, batch_size, smoothing=0.05)
    torch.manual_seed(1)
    model = cifar.MODELS["resnet20"](classes=2).eval()
    body = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("classifier")}
    earlier = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
    head.fit_head(model, cifar.preprocess, own_images, torch.device("cpu"), (lambda x, labels: earlier[labels]) if taught else None)
    assert all((model.state_dict()[key] == value).all() for key, value in body.items())
    batches = [own_images.batch(1, i) for i in range(max(1, 128 // batch_size))]
    images, labels = (torch.cat([batch[i] for batch in batches]) for i in range(2))
    logits = model(cifar.preprocess(images))
    assert (logits.argmax(1) == labels).float().mean() > 0.9
    p = torch.eye(2)[labels]
    p = 0.95 * ((p + earlier[labels]) / 2 if taught else p) + 0.05 / 2
    loss = -(p * logits.log_softmax(1)).sum(1).mean() + head.DECAY * model.classifier.weight.square().sum()
    slope = torch.autograd.grad(loss, list(model.classifier.parameters()))
    assert max(part.abs().max() for part in slope) < 0.01


def test_few_tracks_fit_the_head_alone(home, monkeypatch, capsys):
    models, arguments = home / "models", ["--cpu", "--arch", "resnet20", "--data", str(write(home / "crops"))]
    shipped = cifar.MODELS["resnet20"]().state_dict()
    checkpoint.save(models / "resnet20.best.pth.tar", {"arch": "resnet20", "state_dict": shipped})
    cifar.main([*arguments, "--epochs", "1"])
    accuracy = cifar.main(arguments)
    printed = capsys.readouterr().out
    assert "training resnet20.crops: 1 epochs on" in printed and "training resnet20.crops: the head alone on" in printed
    saved = checkpoint.load(models / "resnet20.crops.last.pth.tar")
    assert saved["best"]["epoch"] == 0 and saved["rows"] == []
    kept = {key: value for key, value in saved["best"]["state_dict"].items() if not key.startswith("classifier")}
    assert kept and all(torch.equal(value, shipped[key]) for key, value in kept.items())
    if f"written: {models / 'resnet20.crops.best.pth.tar'}" in printed.partition("the head alone")[2]:  # as good as the epoch
        assert not list(models.glob("*.crops.curve.png")) and not list(models.glob("*.crops.log.csv"))
    assert cifar.main([*arguments, "--resume"]) == accuracy
    assert own.for_tracks(cifar.RECIPES["nin"], own.OwnImages(home / "crops", SPEC, 8, 0.0), cifar.NIN()) == cifar.RECIPES["nin"]
    monkeypatch.setattr(own, "FINE_TUNED_FROM", 6)
    cifar.main([*arguments, "--name", "more"])
    assert "training more: 4 epochs on" in capsys.readouterr().out


def test_a_torch_network_of_own_classes_names_crops(tmp_path):
    network = TorchNetwork(cifar.MODELS["resnet20"](classes=2), SPEC)
    assert network(prepare([np.zeros((9, 9, 3), np.uint8)], SPEC)).shape == (1, 2)
