"""The machine that a table was made on, in one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["cpu_line", "machine"]


def cpu_line(threads: str) -> str:
    """Processor, cores, ``threads`` as it is, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {threads}, Python {platform.python_version()}, torch {torch.__version__}"


def machine() -> str:
    """The GPU where there is one, else the CPU; and the versions."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, torch {torch.__version__}"
    return cpu_line("one thread a run")
