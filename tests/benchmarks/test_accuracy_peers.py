"""What is asked of onnxsim and of us is the same; layers that ours leaves dense get their weights back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.accuracy import peers
from benchmarks.accuracy.common import zeros
from benchmarks.accuracy.peers import Case
from benchmarks.export import exported
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three layers, of which the last is too small to be pruned."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    x = torch.randn(24, 64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("benchmarks.export.CACHE", tmp_path_factory.mktemp("models"))
        graph = OnnxGraph.from_file(exported("layers", module, (x,), ("x",), free=((0,),)))
    return Case(graph, [{"x": part.numpy()} for part in x.split(8)], lambda graph: np.zeros(1))


def test_axes_are_free_where_asked(case: Case) -> None:
    [spec] = case.graph.inputs
    assert isinstance(spec.shape[0], str) and spec.shape[1] == 64


def test_rows_have_names_of_their_own_and_are_valid() -> None:
    rows = peers.rows()
    assert len({row.name for row in rows}) == len(rows)
    assert {row.step.criterion for row in rows} == {"magnitude", "wanda", "sparsegpt"}


def test_worse_is_worse_by_more_than_chance_at_the_same_zeros() -> None:
    def verdict(model: str, ours: Sequence[float], theirs: Sequence[float], zeros: float = 0.5) -> str:
        pruned = peers.Pruned(np.array(ours), 0.5, 1.0), peers.Pruned(np.array(theirs), zeros, 1.0)
        return peers.MODELS[model].compared(*pruned)["verdict"]

    assert verdict("minilm", [0.8, 0.9, 0.7], [0.81, 0.92, 0.72]) == "worse"
    assert verdict("minilm", [0.81, 0.92, 0.72], [0.8, 0.9, 0.7]) == ""
    assert verdict("minilm", [0.8, 0.9, 0.7], [0.95, 0.8, 0.7]) == ""
    assert verdict("ocr", [0.0, 0.2, 0.1], [0.0, 0.2, 0.1]) == ""
    assert verdict("ocr", [0.1, 0.3, 0.2], [0.0, 0.2, 0.1]) == "worse"
    assert verdict("ocr", [0.1, 0.3, 0.2], [0.0, 0.2, 0.1], zeros=0.45) == "not the same zeros"
    assert verdict("ocr", [1.1, 1.0, 1.2], [1.0, 0.9, 1.1]) == "both useless"


def test_weights_are_put_back(case: Case) -> None:
    dense, pruned = case.graph, case.graph.copy()
    first, *_, last = pruned.sites(WeightSite)
    for site in (first, last):
        pruned.set_weight(site, torch.zeros_like(site.weight))
    found = peers.restored(pruned, dense, Prune()).sites(WeightSite)
    assert not found[0].weight.any() and torch.equal(found[-1].weight, dense.sites(WeightSite)[-1].weight)


@pytest.mark.parametrize("row", peers.rows(), ids=lambda row: row.name)
def test_both_prune_the_same_layers(case: Case, row: peers.Row) -> None:
    pytest.importorskip("onnxsim")
    ours, theirs = row.ours(case), row.theirs(case)
    assert row.allocation == "global" or zeros(ours) == pytest.approx(zeros(theirs), abs=0.01)
    assert torch.equal(theirs.sites(WeightSite)[-1].weight, case.graph.sites(WeightSite)[-1].weight)
