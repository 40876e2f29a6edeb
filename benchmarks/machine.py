"""What a measurement was made on and with: it stands beside every table."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("sparsecc", "apache-tvm", "torch", "transformers", "onnxruntime", "openvino", "nncf", "onnxsim", "onnx", "numpy")
ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "sve")  # as Linux spells them


@cache
def machine() -> dict[str, Any]:
    """CPU, ISA extensions that matter to kernels, usable cores, system, and the version of each engine (None when absent)."""
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "isa": [extension for extension in ISA if extension in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
    }


def one_line() -> str:
    """For the head of a Markdown table."""
    about = machine()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    return f"{about['cpu']}, {about['cores']} cores ({' '.join(about['isa'])}); {versions}"


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
