"""Who may import whom: the arrows between the rooms."""
import ast
import re
import sys

import pytest

from tests.scripts import ROOT

LIBRARIES = set(sys.stdlib_module_names) | {"torch", "torchvision", "numpy", "PIL", "cv2", "tqdm", "matplotlib", "safetensors"}
LIBRARIES |= {"lap", "jinja2", "pycocotools", "trackeval", "tabulate", "ray"}
ALLOWED = {
    "util": LIBRARIES | {"util", "av", "fastmcd"},
    "fastmcd": LIBRARIES - {"torch", "torchvision"} | {"fastmcd"},
    "MNIST": LIBRARIES | {"util", "fastmcd", "main"},  # main: the folder's own, from its other scripts
    "CIFAR_10": LIBRARIES | {"util", "fastmcd", "PyTorch_CIFAR10"},  # its networks can teach
    "PyTorch_CIFAR10": LIBRARIES | {"util", "fastmcd", "main", "networks"},
}
PYTHON = [(room, path) for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize(("room", "path"), PYTHON, ids=[str(p.relative_to(ROOT)) for _, p in PYTHON])
def test_rooms_import_only_what_they_may(room, path):
    assert set(imports(path)) <= ALLOWED[room]


def test_scripts_never_import_each_others_main():
    for room, path in PYTHON:
        if "main" in set(imports(path)):
            assert path.name != "main.py" and (ROOT / room / "main.py").exists()


NATIVE = sorted([*(ROOT / "fastmcd").glob("*.[ch]pp"), *(ROOT / "util" / "native").glob("*.[ch]pp")])


@pytest.mark.parametrize("path", NATIVE, ids=lambda p: str(p.relative_to(ROOT)))
def test_native_core_includes_the_standard_library_alone(path):
    includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)
    foreign = [name for name in includes if ("/" in name or name.endswith((".h", ".hpp"))) and not (path.parent / name).exists()]
    allowed = {"main.cpp": r"opencv2/|(fcntl|unistd)\.h", "python.cpp": r"nanobind/"}.get(path.name)
    if path.name not in ("main.cpp", "python.cpp"):
        foreign = [name for name in foreign if name not in ("immintrin.h", "arm_neon.h")]  # the compiler's own
    assert all(allowed and re.match(allowed, name) for name in foreign), foreign


def test_no_file_of_weights_is_over_six_megabytes():
    floats = [ROOT / "PyTorch_CIFAR10" / "state_dicts" / f"{name}.pt" for name in ("airbench", "mobilenet_v2")]
    shipped = [*ROOT.glob("*/models/*.best.pth.tar"), *floats]
    assert all(path.stat().st_size < 6e6 for path in shipped)
