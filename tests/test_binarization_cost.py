"""benchmarks/binarization_cost.py on a handful of images, its figures against a count by hand."""
import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts import load_script
from util.errors import InputError

bench = load_script("benchmarks/binarization_cost.py")
CLASSES = load_script("CIFAR_10/main.py").CLASSES


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A tiny test set in folders, three images a class."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in CLASSES:
        (root / "test" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(root / "test" / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A results directory with seven objects."""
    generator, root = np.random.default_rng(1), tmp_path_factory.mktemp("results")
    (root / "clip" / "crops").mkdir(parents=True)
    rows = ["frame,object,x,y,width,height,score,crop"]
    for i in range(7):
        crop = f"crops/{i + 1:06d}_00.png"
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(root / "clip" / crop)
        rows.append(f"{i + 1},0,1,2,30,20,0.9,{crop}")
    (root / "clip" / "detections.csv").write_text("\n".join(rows) + "\n")
    return root / "clip"


@pytest.fixture(scope="module")
def measured(images, clip, tmp_path_factory):
    """What the script returns, what it prints, and its picture."""
    threads, picture = torch.get_num_threads(), tmp_path_factory.mktemp("picture") / "a.png"
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found = bench.main([str(clip), "--data", str(images), "--float", "airbench", "--seconds", "0", "--plot", str(picture)])
    finally:
        torch.set_num_threads(threads)
    return found, printed.getvalue(), picture


def test_table_and_picture_have_every_network_and_figures_that_can_be_counted(measured):
    found, printed, picture = measured
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if "---" not in line]
    names = [row[1:3] for row in rows]
    assert names[0] == ["airbench", "fp32"] and ["nin", "1 bit"] in names and len(rows) == len(found)
    assert head[6:8] == ["test set (30)", "clip (7)"]
    truth = torch.arange(10).repeat_interleave(3)
    for row, network in zip(rows, found, strict=True):
        labels = network.labels["test set"], network.labels["clip"]
        assert float(row[6]) == pytest.approx(sum(a == b for a, b in zip(labels[0].tolist(), truth.tolist(), strict=True)) / 0.3, abs=0.01)
        assert float(row[7]) == pytest.approx(sum(label in (1, 9) for label in labels[1].tolist()) / 0.07, abs=0.1)
        assert float(row[3]) > 50 and 0 < float(row[5]) < 1000
    same = [sum((found[0].labels[name] == found[-1].labels[name]).tolist()) for name in ("clip", "test set")]
    assert (float(rows[0][-1]), float(rows[-1][8])) == pytest.approx((same[0] / 0.07, same[1] / 0.3), abs=0.1) and rows[0][8] == ""
    assert Image.open(picture).width > 800


def test_float_and_binary_networks_name_what_their_own_scripts_name(measured, clip, tmp_path):
    found = measured[0]
    scripts = {"airbench": load_script("PyTorch_CIFAR10/main.py"), "nin": load_script("CIFAR_10/main.py")}
    for network in found:
        if network.name in scripts and network.arithmetic != "bf16":
            arguments = ["--arch", network.name, "--cpu", "--multi_fastMCD", str(clip), "--save", str(tmp_path / network.name)]
            predictions = scripts[network.name].main(arguments)
            for row, label in zip(predictions, network.labels["clip"], strict=True):
                assert row[6] in (CLASSES[label], "unknown")


def test_bad_input_is_answered_in_one_line(images, clip, tmp_path):
    (tmp_path / "empty").mkdir()
    wrong = [
        (["--label", "horses"], "no class"),
        (["--float", "vgg12"], "vgg12"),
        (["--float", "densenet161"], "no such file"),
        ([str(tmp_path / "none.mp4")], "none.mp4"),
        ([str(tmp_path / "empty")], "empty"),
        (["--most", "0"], "both are at least 1"),
    ]
    for arguments, words in wrong:
        with pytest.raises(InputError, match=words):
            bench.main(["--data", str(images), *arguments])
