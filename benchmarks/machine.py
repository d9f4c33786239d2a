"""What a measured time depends on."""
import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name as the system gives it, elsewhere than on Linux its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
