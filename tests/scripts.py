"""How tests reach the scripts: as a module, or as a person would, in a process of its own."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load_script(path):
    """Return the module of a script such as "MNIST/main.py" without running it."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(path, *arguments, cwd=ROOT, timeout=600):
    """Return the finished process of `python3 path arguments…`; `path` is relative to the root, whatever `cwd` is."""
    command = [sys.executable, str(ROOT / path), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
