"""Packages of models that the project does not depend on: each pinned, brought by pip into a folder of their own.

They stay out of the project's environment, since transformers imports torchvision wherever it finds it, and PyPI's torchvision cannot load
its operators beside a torch that was built for the CPU alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from sparsecc.errors import UserError

FOLDER = Path(__file__).parents[2] / "build" / "coverage" / "packages"
PINS = {
    "timm": "1.0.31",
    "torchvision": "0.28.0",  # of torch 2.13
    "diffusers": "0.42.1",
    # what diffusers imports
    "requests": "2.34.2",
    "urllib3": "2.8.0",
    "certifi": "2026.10.19.post1",
    "charset-normalizer": "3.5.3",
    "importlib-metadata": "10.2.0",
    "zipp": "4.1.2",
}
LIBRARIES = ("timm", "torchvision", "diffusers")


def pin(package: str) -> str:
    return f"{package}=={PINS[package]}"


def importable(folder: Path = FOLDER) -> None:
    """Put the packages behind everything else on sys.path; the first call on a machine downloads 40 MB.

    Raises UserError when pip cannot bring them.
    """
    brought = folder / "brought.txt"
    wanted = "\n".join(map(pin, PINS)) + "\n"
    if not brought.is_file() or brought.read_text() != wanted:
        _bring(folder)
        brought.write_text(wanted)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _declare_torchvision_operators()


def _bring(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*command, "--target", str(folder), *map(pin, PINS)], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"pip's exit status is {result.returncode}"]
        raise UserError(f"{', '.join(PINS)}: cannot be installed into {folder}: {lines[-1]}")


def _declare_torchvision_operators() -> None:
    """torchvision registers shapes for these on import, which fails where its library has not declared them. No model here calls them."""
    library = import_module("torch.library").Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # its declarations end with it


_KEPT: list[object] = []
