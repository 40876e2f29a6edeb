"""The same model, recipe, calibration and seed make the same file, to the byte, in every process."""

from __future__ import annotations

import os
import subprocess
import sys

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
from pathlib import Path
torch.set_num_threads(1)
from sparsecc.passes import pipeline
from sparsecc.calibration.context import Context
from sparsecc.recipe import Recipe
from tests.laws.hosts import graph, model

x = model("transformer")[1]
inputs = [(torch.randn(x.shape, generator=torch.Generator().manual_seed(i)),) for i in range(6)]
for seed in map(int, sys.argv[2:]):
    for host, passes in {_RECIPES!r}.items():
        recipe, end = Recipe.load({{"passes": passes}}), "pt2" if host == "fx" else "onnx"
        result, _ = pipeline.run(graph(host, "transformer"), recipe, Context(calibration=inputs, seed=seed))
        result.save(Path(sys.argv[1]) / f"{{host}}_{{seed}}.{{end}}")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What two processes write, by host and seed."""

    def write(hashes: int, *seeds: int) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("process")
        environment = {**os.environ, "PYTHONHASHSEED": str(hashes)}
        subprocess.run([sys.executable, "-c", _RUN, str(folder), *map(str, seeds)], check=True, env=environment)
        return {path.stem: path.read_bytes() for path in folder.iterdir()}

    return write(1, 7, 8), write(2, 7)


@pytest.mark.parametrize("host", HOSTS)
def test_two_processes_write_the_same_bytes(host: str, written: tuple[dict[str, bytes], dict[str, bytes]]) -> None:
    first, second = written
    assert first[f"{host}_7"] == second[f"{host}_7"]
    assert first[f"{host}_7"] != first[f"{host}_8"]
