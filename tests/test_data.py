"""Data sets from folders and from torchvision's own files, and the augmentation against plain loops."""
import gzip
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from util.errors import InputError
from util.train import data

CLASSES = ["cat", "dog"]


def write_folder(root, count=3, size=8, mode="RGB"):
    generator = np.random.default_rng(0)
    images = []
    for split in ("train", "test"):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 256, (size, size, 3) if mode == "RGB" else (size, size), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
                images.append(pixels)
    return images


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_folder_gives_the_pixels_and_labels(tmp_path, mode):
    written = write_folder(tmp_path, mode=mode)
    images, labels = data.load(None, tmp_path, True, CLASSES, mode, 8)
    assert images.dtype == torch.uint8 and images.shape == (6, 3 if mode == "RGB" else 1, 8, 8)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    for image, pixels in zip(images, written[:6], strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy().squeeze(), pixels)


def test_torchvisions_mnist_files_are_read(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    for split in ("train", "t10k"):
        for name, head, body in [
            ("images-idx3", struct.pack(">4i", 0x803, 5, 28, 28), pixels.tobytes()),
            ("labels-idx1", struct.pack(">2i", 0x801, 5), bytes([3, 1, 4, 1, 5])),
        ]:
            (raw / f"{split}-{name}-ubyte").write_bytes(head + body)
            (raw / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + body))
    images, labels = data.load(datasets.MNIST, tmp_path, False, [str(i) for i in range(10)], "L", 28)
    assert images.shape == (5, 1, 28, 28) and np.array_equal(images[:, 0].numpy(), pixels) and labels.tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize(("size", "labels", "words"), [
    (28, [3, 1, 4], r"has 5 images of \(1, 28, 28\), 3 labels up to 4; expected as many labels"),
    (28, [3, 1, 4, 1, 26], "5 labels up to 26; expected .* up to 9"),  # EMNIST
    (32, [3, 1, 4, 1, 5], r"5 images of \(1, 32, 32\).*; expected .*those of \(1, 28, 28\)"),
])  # fmt: skip
def test_torchvisions_files_of_another_set_are_named(tmp_path, size, labels, words):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 5, size, size) + bytes(5 * size * size))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(labels)) + bytes(labels))
    with pytest.raises(InputError, match=words):
        data.load(datasets.MNIST, tmp_path, True, [str(i) for i in range(10)], "L", 28)


def test_torchvisions_cifar_files_are_read(tmp_path, monkeypatch):
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": [1, 2, 3, 9]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    images, labels = data.load(datasets.CIFAR10, tmp_path, False, list("0123456789"), "RGB", 32)
    assert np.array_equal(images.numpy().reshape(4, 3072), pixels) and labels.tolist() == [1, 2, 3, 9]


def test_nothing_there_and_no_network_is_one_line(tmp_path):
    class Offline:
        def __init__(self, *args, **kwargs):
            raise OSError("<urlopen error [Errno -3]\nTemporary failure in name resolution>")

    with pytest.raises(InputError, match="could not be downloaded") as error:
        data.load(Offline, tmp_path, True, CLASSES, "RGB", 8)
    assert "\n" not in str(error.value) and "--data" in str(error.value)


def test_bad_images_are_named(tmp_path):
    write_folder(tmp_path)
    victim = tmp_path / "train" / "cat" / "1.png"
    victim.write_bytes(victim.read_bytes()[:40])
    with pytest.raises(InputError, match="1.png"):
        data.load(None, tmp_path, True, CLASSES, "RGB", 8)
    Image.new("RGB", (9, 8)).save(victim)
    with pytest.raises(InputError, match="9x8 pixels, expected 8x8"):
        data.load(None, tmp_path, True, CLASSES, "RGB", 8)


def test_a_small_file_that_claims_to_be_a_huge_image_is_not_decoded(tmp_path):
    write_folder(tmp_path)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0))
    (tmp_path / "train" / "cat" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"b\.png.*DecompressionBomb"):
        data.load(None, tmp_path, True, CLASSES, "L", 8)


def test_folder_without_the_classes_is_refused(tmp_path):
    (tmp_path / "train" / "bird").mkdir(parents=True)
    with pytest.raises(InputError, match="one folder per class"):
        data.load(None, tmp_path, True, CLASSES, "RGB", 8)


def test_an_empty_folder_of_a_class_is_named(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / "train" / "cat").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="train/cat: holds no images; add some, or remove the folder"):
        data.load(None, tmp_path, True, CLASSES, "RGB", 8)


def test_held_out_images_are_disjoint_and_the_same_for_a_seed():
    train, held_out = data.hold_out(20, 100)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(100)) and len(held_out) == 20
    assert torch.equal(held_out, data.hold_out(20, 100)[1])


def test_normalize_is_the_formula():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = data.normalize(images, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    for c, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), strict=True)):
        np.testing.assert_allclose(result[:, c].numpy(), (images[:, c].numpy().astype(np.float64) / 255 - mean) / std, rtol=1e-5)


def test_shift_moves_each_image_by_whole_pixels_and_mirrors_the_border():
    images = torch.arange(5 * 1 * 6 * 6).view(5, 1, 6, 6).float()
    shifted = data.random_shift(images, 2, torch.Generator().manual_seed(0))
    moves = set()
    for before, after in zip(images[:, 0].numpy(), shifted[:, 0].numpy(), strict=True):
        padded = np.pad(before, 2, mode="reflect")
        found = [(y, x) for y in range(5) for x in range(5) if np.array_equal(padded[y : y + 6, x : x + 6], after)]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 1


def test_mixing_covers_part_of_some_images_with_that_part_of_the_image_before():
    images = torch.arange(2000, dtype=torch.int32).view(-1, 1, 1, 1).expand(-1, 3, 12, 8)
    mixed = data.cutmix(images, 0.5, torch.Generator().manual_seed(0))
    foreign = (mixed != images).numpy()
    assert torch.equal(mixed[torch.from_numpy(foreign)], images.roll(1, 0)[torch.from_numpy(foreign)])
    assert (foreign == foreign[:, :1]).all()
    foreign = foreign[:, 0]
    rows, columns = foreign.any(2), foreign.any(1)
    assert (foreign == rows[:, :, None] & columns[:, None]).all()
    for edge in (rows, columns):  # one piece
        assert (np.abs(np.diff(np.pad(edge, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2).all()
    shares = foreign.mean((1, 2))
    assert 0.45 < (shares > 0).mean() < 0.5 and shares.max() > 0.8  # a few are too small to cover a pixel
    # A part of share s that lies anywhere keeps (1 - sqrt(s) / 4)^2 of itself inside on average: s uniform gives 0.344.
    assert abs(shares[shares > 0].mean() - 0.344) < 0.03
    assert torch.equal(data.cutmix(images, 0.0, torch.Generator()), images)


def test_mirror_flips_about_half():
    images = torch.arange(400 * 3).view(400, 1, 1, 3).float()
    flipped = (data.random_mirror(images, torch.Generator().manual_seed(0))[:, 0, 0, 0] != images[:, 0, 0, 0]).sum().item()
    assert 150 < flipped < 250


def test_a_fingerprint_is_of_pixels_and_labels():
    images, labels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4), torch.tensor([0, 1])
    first = data.fingerprint(images, labels)
    assert first == data.fingerprint(images.clone(memory_format=torch.channels_last), labels) and len(first) == 16
    others = [(images + 1, labels), (images, labels.flip(0)), (images.flip(0), labels), (images.view(2, 3, 2, 8), labels)]
    assert len({first, *(data.fingerprint(*other) for other in others)}) == 5


def test_a_folder_with_a_test_set_alone_is_the_data_set_that_has_its_classes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
    assert data.own_classes(tmp_path, ["cat", "dog"]) is None and data.own_classes(tmp_path, ["dog", "frog"]) == ["cat", "dog"]
