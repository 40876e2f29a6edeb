"""sparsecc doctor"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from typing import Any

from sparsecc._version import __version__
from sparsecc.cli.common import JsonOption, ThreadsOption, working, writable, write_json

_BACKENDS = (
    "apache-tvm",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxslim",
    "onnxruntime",
    "openvino",
    "numpy",
    "transformers",
    "xgboost",
)


def doctor(threads: ThreadsOption = None, json: JsonOption = None) -> None:
    """Instruction sets, cores, measured peak and bandwidth, backends."""
    from sparsecc.codegen.cpu.threads import available, physical_cores

    writable(json)
    threads = threads or physical_cores()
    with working("measuring"):
        result = {
            "sparsecc": __version__,
            "python": platform.python_version(),
            "cpu": _cpu(threads) | {"cpus": available(), "physical_cores": physical_cores(), "threads": threads},
            "measured": _measure(threads),
            "gpu": _gpu(),
            "backends": {name: _version(name) for name in _BACKENDS},
            "c_compiler": next((path for name in _compilers() if (path := shutil.which(name))), None),
        }
    write_json(json, result)
    print(_text(result))


def _cpu(threads: int) -> dict[str, Any]:
    from sparsecc.codegen.cpu import target

    table = target.detect(threads)
    return {
        "name": target.host_name(),
        "llvm": table.cpu,
        "triple": table.triple,
        "features": list(table.features),
        "vector_bits": table.vector_bits,
        "l1_bytes": table.l1_bytes,
        "l2_bytes": table.l2_bytes,
    }


def _gpu() -> dict[str, Any]:
    """What can be run and built for GPUs."""
    from sparsecc.codegen.cuda import nvrtc, target
    from sparsecc.codegen.cuda.arch import ARCHES, nearest

    missing, unbuildable = target.no_gpu(), nvrtc.missing()
    row = None if missing else nearest(target.capability())
    return {
        "device": None if missing else target.device_name(),
        "capability": None if missing else list(target.capability()),
        "kernels": row.name if row else None,
        "missing": missing,
        "builds_for": [] if unbuildable else [arch.name for arch in ARCHES],
        "cannot_build": unbuildable,
    }


def _measure(threads: int) -> dict[str, dict[str, float]]:
    from sparsecc.codegen.cpu.roofline import measure
    from sparsecc.codegen.cpu.target import detect

    found = measure(detect(threads))
    return {
        "peak_gops": {dtype: rate / 1e9 for dtype, rate in found.ops_per_s.items()},
        "read_gb_per_s": {cache: rate / 1e9 for cache, rate in found.bytes_per_s.items()},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compilers() -> list[str]:
    return [name for name in (os.environ.get("CXX"), os.environ.get("CC"), "g++", "gcc", "clang++", "clang", "c++", "cc") if name]


def _text(result: dict[str, Any]) -> str:
    cpu, measured = result["cpu"], result["measured"]
    lines = [
        f"sparsecc {result['sparsecc']}, Python {result['python']} ({sys.executable})",
        f"CPU: {cpu['name']} (LLVM: {cpu['llvm']}), {cpu['physical_cores']} cores, {cpu['cpus']} CPUs usable",
        f"vectors: {cpu['vector_bits']} bits; L1 {cpu['l1_bytes'] >> 10} kB, L2 {cpu['l2_bytes'] >> 10} kB per core",
        f"instruction sets: {' '.join(cpu['features']) or 'none beyond the baseline'}",
        f"dense kernels, measured, {cpu['threads']} threads, GOP/s: {_listed(measured['peak_gops'])}",
        f"reading, measured, {cpu['threads']} threads, GB/s: {_listed(measured['read_gb_per_s'])}",
        f"C compiler, for saving artifacts: {result['c_compiler'] or 'none found'}",
    ]
    lines += _gpu_lines(result["gpu"])
    lines += [f"{name}: {version or 'not installed'}" for name, version in result["backends"].items()]
    return "\n".join(lines)


def _gpu_lines(gpu: dict[str, Any]) -> list[str]:
    from sparsecc.codegen.cuda.arch import spelt

    if gpu["missing"]:
        here = f"GPU: {gpu['missing']}"
    else:
        kernels = f"runs kernels for {gpu['kernels']}" if gpu["kernels"] else "there are no kernels for it"
        here = f"GPU: {gpu['device']}, {spelt(tuple(gpu['capability']))}: {kernels}"
    return [here, f"GPU kernels can be built for: {', '.join(gpu['builds_for']) or gpu['cannot_build']}"]


def _listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure:.0f}" for name, figure in figures.items())
