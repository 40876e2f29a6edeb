"""Pruning and recovery on a GPU. Needs neither onnx nor tvm: python -m pytest tests/passes/test_cuda.py"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.calibration.context import Context
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.base import Pass
from sparsecc.passes.permute import Permute
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from sparsecc.passes.recover import Recover
from sparsecc.passes.structured import CRITERIA, Structured
from sparsecc.passes.substitute import Substitute

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=no_gpu)]
WIDTH = 64


def on_devices(cases: Sequence[Any], names: Callable[[Any], str]) -> list[Any]:
    """All cases on the GPU, and the first one on the CPU, where a device changes nothing: it tries the test."""
    there = [pytest.param("cuda", case, marks=no_gpu, id=f"{names(case)}-cuda") for case in cases]
    return [pytest.param("cpu", cases[0], id=f"{names(cases[0])}-cpu"), *there]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, WIDTH)
        self.mix, self.fc1, self.fc2 = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        q, k, v = self.mix(x).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.fc2(nn.functional.gelu(self.fc1(x)))


def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block().eval()


@cache
def traced(device: str = "cpu") -> FxGraph:
    """The module there; passes leave it as it is."""
    return FxGraph.from_module(module().to(device), samples()[0])


def samples(count: int = 20) -> list[tuple[Tensor]]:
    return [(torch.randint(100, (2, 12), generator=torch.Generator().manual_seed(i)),) for i in range(count)]


def applied(steps: list[Pass], graph: FxGraph) -> FxGraph:
    result: Graph = graph
    for step in steps:
        result = step.apply(result, Context(calibration=samples(), original=graph)).graph
    assert isinstance(result, FxGraph)
    return result


def error(graph: Graph, dense: Graph) -> float:
    pairs = [(graph.run(x).outputs[0].cpu(), dense.run(x).outputs[0].cpu()) for x in samples(24)[20:]]
    return (sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


FIELDS: list[dict[str, Any]] = [
    {"criterion": "sparsegpt", "allocation": "sensitivity"},
    {"criterion": "wanda"},
    {"criterion": "wanda", "refinement": "dsnot", "pattern": "2:4"},
    {"criterion": "sparsegpt", "pattern": "4x1"},
    {"criterion": "alps", "pattern": "2:4"},
    {"criterion": "alps", "rows": "fisher"},
    {"criterion": "fisher", "allocation": "owl"},
    {"criterion": "obs"},
    {"criterion": "chita", "pattern": "2:4"},
    {"criterion": "spectral", "allocation": "global"},
]


@pytest.mark.parametrize(("device", "fields"), on_devices(FIELDS, lambda fields: "-".join(fields.values())))
def test_a_device_prunes_as_the_cpu_does(device: str, fields: dict[str, Any]) -> None:
    dense = traced()
    there = applied([Prune(device=device, **fields)], dense)
    assert {site.weight.device.type for site in there.sites(WeightSite)} == {"cpu"}
    here = applied([Prune(**fields)], dense)
    assert error(there, dense) == pytest.approx(error(here, dense), rel=0.05)
    for one, other in zip(there.sites(WeightSite), here.sites(WeightSite), strict=True):
        alike = 0.95 if fields["criterion"] == "alps" else 0.98  # whose rounds carry on what rounding changed
        assert float(((one.weight != 0) == (other.weight != 0)).float().mean()) > alike


@pytest.mark.parametrize(("device", "dtype"), on_devices(["bfloat16", "float32"], str))
def test_recovery(device: str, dtype: str, tmp_path: Path) -> None:
    dense = traced()
    pruned = applied([Prune(pattern="2:4")], dense)
    checkpoint = str(tmp_path / "state")
    blocks = Recover(method="blocks", steps=40, learning_rate=2e-3, dtype=dtype, device=device, checkpoint=str(tmp_path / "blocks"))
    learn = Recover(method="distillation", steps=40, learning_rate=2e-3, dtype=dtype, device=device, checkpoint=checkpoint)
    for step in (Recover(device=device), blocks, learn):
        result = step.apply(pruned, Context(calibration=samples(), original=dense))
        assert result.modified
        assert error(result.graph, dense) < 0.9 * error(pruned, dense)
        for before, after in zip(pruned.sites(WeightSite), result.graph.sites(WeightSite), strict=True):
            assert after.weight.device.type == "cpu"
            assert not (after.weight != 0)[before.weight == 0].any()
    again = learn.apply(pruned, Context(calibration=samples(), original=dense))  # all of it from the file
    for one, other in zip(result.graph.sites(WeightSite), again.graph.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("device", DEVICES)
def test_distillation_goes_on_there(device: str, tmp_path: Path) -> None:
    dense = traced()
    pruned = applied([Prune(pattern="2:4")], dense)
    learn = Recover(method="distillation", steps=20, learning_rate=2e-3, device=device, checkpoint=str(tmp_path / "state"))

    def stop(progress: object) -> None:
        if getattr(progress, "done", 0) == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn.apply(pruned, Context(calibration=samples(), original=dense, progress=stop))
    assert error(learn.apply(pruned, Context(calibration=samples(), original=dense)).graph, dense) < 0.9 * error(pruned, dense)


@pytest.mark.parametrize("device", DEVICES)
def test_a_module_that_lies_there_is_worked_on_there(device: str, tmp_path: Path) -> None:
    dense = traced(device)
    learning = Recover(), Recover(method="distillation", steps=10)
    result = applied([Permute(pattern="2:4"), Prune(criterion="sparsegpt", pattern="2:4"), *learning], dense)
    assert {site.weight.device.type for site in result.sites(WeightSite)} == {device}
    assert error(result, dense) < error(applied([Prune(pattern="2:4")], dense), dense)
    result.save(tmp_path / "m.pt2")
    saved = FxGraph.load(tmp_path / "m.pt2")
    torch.testing.assert_close(saved.run(samples()[0]).outputs, result.run(samples()[0]).outputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_device_rounds_as_the_cpu_does(device: str, symmetric: bool) -> None:
    fields: dict[str, Any] = {"dtype": "int4", "group": 32, "symmetric": symmetric}
    dense = traced()
    there, here = (applied([Quantize(method="gptq", device=at, **fields)], dense) for at in (device, None))
    assert {site.weight.device.type for site in there.sites(WeightSite)} == {"cpu"}
    assert error(there, dense) == pytest.approx(error(here, dense), rel=0.05)
    assert error(there, dense) < error(applied([Quantize(**fields)], dense), dense)


STEPS = [
    *(Structured(neurons=0.25, criterion=name) for name in CRITERIA),
    Substitute(),
    Substitute(structure="armor", params=0.8),
    Quantize(dtype="int4", method="gptq"),
]


@pytest.mark.parametrize(("device", "step"), on_devices(STEPS[::-1], str))
def test_other_passes_run_where_the_weights_lie(device: str, step: Pass) -> None:
    there, here = applied([step], traced(device)), applied([step], traced())
    assert {site.weight.device.type for site in there.sites(WeightSite)} == {device}
    assert error(there, traced()) == pytest.approx(error(here, traced()), rel=0.05)
