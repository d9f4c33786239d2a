"""Who may import whom: the arrows between the rooms."""
import ast
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.scripts import ROOT

BASE = {"util"}  # cli, errors, files, signals, spec, crops, digits
FREEZING = {"trace.py", "fold.py", "freeze.py", "onnx.py"}  # of util/packed: what needs PyTorch there
# Room -> the rooms and libraries that it may import, besides itself and the standard library. No arrow leads up, so there is no circle.
PACKED = {"util/packed", "util/packed/freeze"}
ALLOWED = {
    "fastmcd": {"numpy"},
    "util": {"numpy", "cv2", "tqdm"},
    "util/binop": {"torch"} | BASE,  # with util/layers
    "util/packed": {"numpy", "safetensors"} | BASE,
    "util/packed/freeze": {"torch", "numpy", "onnx", "util/binop", "util/packed"} | BASE,
    "util/train": {"torch", "numpy", "scipy", "cv2", "PIL", "tqdm", "matplotlib", "safetensors", "util/binop"} | PACKED | BASE,
    "util/source": {"numpy", "cv2", "av"} | BASE,
    "util/track": {"numpy", "cv2", "lap", "util/source"} | BASE,
    "util/outputs": {"numpy", "cv2", "av", "PIL", "jinja2", "paho", "fastmcd", "util/source", "util/track"} | BASE,
    "util/serve": {"numpy", "cv2", "aiohttp", "util/source", "util/track", "util/outputs"} | BASE,
    "util/score": {"numpy", "cv2", "PIL", "tqdm", "tabulate", "pycocotools", "trackeval"}
    | {"util/source", "util/track", "util/outputs"} | BASE,
    "util/watch": {"numpy", "tqdm", "tabulate", "ray", "tomlkit", "fastmcd", "util/packed"}
    | {"util/source", "util/track", "util/outputs", "util/serve"} | BASE,
}
TRAINING = {"torch", "torchvision", "numpy", "tqdm", "safetensors", "util/binop", "util/packed", "util/train", "util/watch"} | BASE
ALLOWED |= {
    "MNIST": TRAINING | {"cv2", "PIL", "main", "fastmcd", "util/track", "util/outputs", "util/score"},  # the demo
    "CIFAR_10": TRAINING | {"PyTorch_CIFAR10"},  # its networks can teach
    # main: the folder's own, from its other scripts
    "PyTorch_CIFAR10": TRAINING | {"main", "networks"},
}
CIFAR_10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
PYTHON = sorted(path for folder in ("MNIST", "CIFAR_10", "PyTorch_CIFAR10", "fastmcd", "util") for path in (ROOT / folder).rglob("*.py"))


def room_of(path):
    top, *deeper = path.relative_to(ROOT).parts
    if top != "util" or len(deeper) == 1:
        return "util/binop" if path.name in ("binop.py", "layers.py") else top
    return "util/packed/freeze" if deeper[0] == "packed" and path.name in FREEZING else f"util/{deeper[0]}"


def rooms_of(module):
    """Return what an imported module belongs to: a room of this house, or a library."""
    top, _, rest = module.partition(".")
    path = ROOT / "util" / rest.replace(".", "/")
    if top != "util":
        return top
    return room_of(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def imports(path):
    """Yield the full names of what a file imports; of "from util import packed" that is util.packed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = node.module.split(".")[0] == "util" and (ROOT / node.module.replace(".", "/")).is_dir()
            yield from (f"{node.module}.{name.name}" for name in node.names) if inside else [node.module]


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    room = room_of(path)
    found = {rooms_of(module) for module in imports(path)} - set(sys.stdlib_module_names) - {room}
    assert found <= ALLOWED[room], f"{room} -> {found - ALLOWED[room]}"


def test_no_arrow_leads_up():
    order = list(ALLOWED)
    leading_up = {(room, other) for i, room in enumerate(order) for other in ALLOWED[room] & set(order[i:])}
    assert leading_up == {("CIFAR_10", "PyTorch_CIFAR10")}  # a teacher's networks, which import nothing of CIFAR_10


def test_scripts_never_import_each_others_main():
    for path in PYTHON:
        if "main" in set(imports(path)):
            assert path.name != "main.py" and (path.parent / "main.py").exists()


def loaded_by(code, *arguments):
    """Return the modules that a new interpreter has loaded after running `code`."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    command, environment = [sys.executable, "-c", code, *map(str, arguments)], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_who_watches_never_loads_pytorch(tmp_path):
    """The whole way, with all files written, from a packed network."""
    rng = np.random.default_rng(1)
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    loaded = loaded_by("import sys; from util.watch.__main__ import main; main(sys.argv[1:])", tmp_path, "--save", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").exists() and "util.watch.pipeline" in loaded
    assert not loaded & {"torch", "torchvision", "util.binop", "util.train"} and not loaded & {"matplotlib", "pandas", "scipy"}
    assert not loaded & {"util.serve", "aiohttp", "tomlkit"}, "which --serve alone needs"
    loaded = loaded_by("import sys; from util.watch import watch; assert len(list(watch(*sys.argv[1:]))) == 6",
                       tmp_path, ROOT / "MNIST/models/LeNet_5.xnor")  # fmt: skip
    assert not loaded & {"torch", "jinja2", "PIL", "util.outputs", "util.score", "util.train"}


TRAINED = """
import sys
from pathlib import Path
from tests.scripts import load_script
for name in ("MNIST", "CIFAR_10"):
    script, home = load_script(f"{name}/main.py"), Path(sys.argv[1]) / name
    script.HERE = home
    script.main(["--cpu", "--epochs", "1", "--data", str(home)])
load_script("PyTorch_CIFAR10/main.py")
"""


def test_who_trains_never_loads_what_watches(tmp_path):
    """Trained on a handful of images, evaluated, saved; the full-precision networks' script is only imported, they take longer.

    One process for all: what none of them loads, each doesn't.
    """
    rng = np.random.default_rng(1)
    for script, shape, names in (("MNIST", (28, 28), "0123456789"), ("CIFAR_10", (32, 32, 3), CIFAR_10)):
        for folder in (tmp_path / script / split / name for split in ("train", "test") for name in names):
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i}.png")
    loaded = loaded_by(TRAINED, tmp_path)
    assert {"util.train.run", "torchvision"} < loaded
    assert {path.name for path in tmp_path.rglob("*.last.pth.tar")} == {"LeNet_5.last.pth.tar", "nin.last.pth.tar"}
    assert not loaded & {"cv2", "av", "jinja2", "fastmcd", "util.source", "util.track", "util.outputs", "util.score", "util.watch"}


NATIVE = sorted([*(ROOT / "fastmcd").glob("*.[ch]pp"), *(ROOT / "util" / "native").glob("*.[ch]pp")])


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: str(p.relative_to(ROOT)))
def test_native_core_includes_the_standard_library_alone(path):
    includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)
    foreign = [name for name in includes if ("/" in name or name.endswith((".h", ".hpp"))) and not (path.parent / name).exists()]
    program = r"opencv2/|(fcntl|unistd)\.h"
    allowed = {"main.cpp": program, "source.hpp": program, "results.hpp": r"(fcntl|unistd|sys/file)\.h", "python.cpp": r"nanobind/"}
    allowed = allowed.get(path.name)  # the program writes files, under a lock; the detector itself does neither
    if path.name not in ("main.cpp", "python.cpp"):
        foreign = [name for name in foreign if name not in ("immintrin.h", "arm_neon.h")]  # the compiler's own
    assert all(allowed and re.match(allowed, name) for name in foreign), foreign


def test_no_file_of_weights_is_over_six_megabytes():
    floats = [ROOT / "PyTorch_CIFAR10" / "state_dicts" / f"{name}.pt" for name in ("airbench", "airbench_clips", "mobilenet_v2")]
    shipped = [*ROOT.glob("*/models/*.best.pth.tar"), *floats]
    assert all(path.stat().st_size < 6e6 for path in shipped)
