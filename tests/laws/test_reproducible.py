"""The same model, recipe, calibration and seed make the same file, to the byte, in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.laws.hosts import HOSTS

_RECIPES = {
    "fx": [
        {"prune": {"criterion": "sparsegpt", "pattern": "4x1", "min_weights": 0, "targets": ["query", "fc1", "fc2"]}},
        {"prune": {"criterion": "obs", "min_weights": 0, "targets": ["out"]}},
        {"prune": {"criterion": "spectral", "min_weights": 0, "targets": ["key"]}},
        {"recover": {"variations": 1}},
        {"recover": {"method": "distillation", "steps": 4}},
        "pack",
    ],
    "onnx": [
        {"prune": {"criterion": "spectral", "refinement": "dsnot", "min_weights": 0}},
        {"recover": {"variations": 1}},
        "pack",
    ],
}
_RUN = f"""
import sys, torch
torch.set_num_threads(1)
from sparsecc.passes import pipeline
from sparsecc.calibration.context import Context
from sparsecc.recipe import Recipe
from tests.laws.hosts import graph, model

host, path, seed = sys.argv[1:]
x = model("transformer")[1]
inputs = [(torch.randn(x.shape, generator=torch.Generator().manual_seed(i)),) for i in range(6)]
recipe = Recipe.load({{"passes": {_RECIPES!r}[host]}})
pipeline.run(graph(host, "transformer"), recipe, Context(calibration=inputs, seed=int(seed)))[0].save(path)
"""


@pytest.mark.parametrize("host", HOSTS)
def test_two_processes_write_the_same_bytes(host: str, tmp_path: Path) -> None:
    def written(name: str, seed: int, hashes: int) -> str:
        path = tmp_path / name / f"model.{'pt2' if host == 'fx' else 'onnx'}"
        path.parent.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": str(hashes)}
        subprocess.run([sys.executable, "-c", _RUN, host, str(path), str(seed)], check=True, env=environment)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    first = written("first", 7, hashes=1)
    assert written("second", 7, hashes=2) == first
    assert written("other", 8, hashes=1) != first
