"""Weights in files: the same values, and memory that does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsecc.calibration.context import Context
from sparsecc.errors import UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._scratch import in_scratch
from sparsecc.passes.prune import Prune

on_linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from /proc")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_layout_stay_and_no_file_is_left(tmp_path: Path, dtype: torch.dtype) -> None:
    for tensor in (torch.randn(3, 5, dtype=dtype), torch.randn(5, 3, dtype=dtype).t(), torch.randn(2, 3, 4, 5, dtype=dtype)):
        found = in_scratch(tensor, tmp_path)
        assert torch.equal(found, tensor)
        assert found.stride() == tensor.stride()
        assert found.data_ptr() != tensor.data_ptr()
        assert in_scratch(tensor, None) is tensor
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: a pruned weight cannot be written there: No such file"):
        in_scratch(torch.ones(2, 2), tmp_path / "none")


class Turned(nn.Module):
    """A weight that is stored [in, out], and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 32))
        self.last = nn.Linear(32, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((x @ self.weight).relu())


@on_linux
@pytest.mark.parametrize("criterion", ["magnitude", "sparsegpt"])
def test_the_host_keeps_what_was_mapped(tmp_path: Path, criterion: str) -> None:
    graph = FxGraph.from_module(Turned().eval(), torch.randn(4, 64))
    context = Context(calibration=[(torch.randn(99, 64),)])
    step = Prune(criterion=criterion)
    inside, outside = (step.apply(graph, given).graph for given in (context, Context(context.calibration, scratch=tmp_path)))
    for one, other in zip(inside.sites(WeightSite), outside.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in maps if f"{tmp_path}/" in line]
    for site in outside.sites(WeightSite):
        assert any(int(start, 16) <= site.weight.data_ptr() < int(end, 16) for start, end in ranges)


_MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.calibration.context import Context
from sparsecc.passes.prune import Prune

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(128, 8192, bias=False)

    def forward(self, x):
        return x + self.up(x).relu().unflatten(-1, (64, 128)).mean(-2)

def anonymous():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024

def grown(work):
    before, seen, done = anonymous(), [], threading.Event()
    def watch():
        while not done.wait(0.01):
            seen.append(anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(seen) - before

torch.set_num_threads(1)
folder = Path(sys.argv[1])
with torch.device("meta"):
    module = torch.nn.Sequential(*(Block() for _ in range(32))).eval()
module.load_state_dict(load_file(folder / "m.safetensors"), assign=True)
inputs = [(torch.randn(64, 128),) for _ in range(8)]
step = Prune(criterion="sparsegpt", pattern="2:4")
graphs = [FxGraph.from_module(module, inputs[0])]
first = grown(lambda: graphs.append(step.apply(graphs[0], Context(inputs, scratch=folder)).graph))
saved = grown(lambda: graphs[1].save(folder / "m.pt2"))
print(first, saved)
assert all((site.weight == 0).float().mean() >= 0.5 for site in graphs[1].sites())
"""


@on_linux
def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    """128 MB in 32 layers, mapped; measured: 38 MB while it is pruned, 13 MB while it is saved."""
    save_file({f"{i}.up.weight": 0.02 * torch.randn(8192, 128) for i in range(32)}, tmp_path / "m.safetensors")
    result = subprocess.run([sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    pruning, saving = map(float, result.stdout.split())
    assert pruning < 60
    assert saving < 32
