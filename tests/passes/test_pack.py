from __future__ import annotations

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Conv2d, WeightSite
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.passes.pack import Pack, Storing
from sparsecc.passes.prune import Prune
from tests.passes.fake import FakeGraph, conv, linear


def pruned(pattern: str = "4x1", sparsity: float | None = None) -> FakeGraph:
    sites = [linear("a", 64, 64, bias=torch.randn(64)), conv("c", stride=(2, 1), padding=(1, 0, 1, 2))]
    result = Prune(pattern=pattern, sparsity=sparsity).apply(FakeGraph(sites)).graph
    assert isinstance(result, FakeGraph)
    return result


def storing(step: Pack, graph: Graph) -> list[Storing]:
    """What would be done at each site."""
    actions = [match.action for match in step.find(graph, Context())]
    return [action for action in actions if isinstance(action, Storing)]


@pytest.mark.parametrize(("pattern", "key"), [("unstructured", "csr"), ("4x1", "block:4x1"), ("2:4", "nm:2:4"), ("1x4", "block:1x4")])
def test_stored_in_the_cheapest_format_with_the_same_weights(pattern: str, key: str) -> None:
    before = pruned(pattern)
    result = Pack().apply(before)
    assert result.modified
    actions = storing(Pack(), before)
    assert [action.format.key for action in actions] == [key, key]
    assert [match.action for match in result.matches] == [str(action) for action in actions]
    for old, new, action in zip(before.sites(WeightSite), result.graph.sites(WeightSite), actions, strict=True):
        assert new.packed is not None
        assert new.packed.nbytes == action.bytes_packed < action.bytes_dense
        assert torch.equal(new.weight, old.weight)
        assert action.sparsity == 0.5


def test_the_operator_gets_all_that_the_site_had(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = {}
    monkeypatch.setattr(FakeGraph, "replace", lambda self, site, op: ops.update({site.name: op}))
    before = pruned()
    Pack().apply(before)
    site = before.sites(Conv2d)[0]
    assert isinstance(ops["c"], SparseConv2d)
    assert (ops["c"].kernel, ops["c"].stride, ops["c"].padding, ops["c"].dilation) == ((3, 3), site.stride, site.padding, site.dilation)
    assert ops["a"].bias is before.sites(WeightSite)[0].bias


def test_twice_is_once() -> None:
    once = Pack().apply(pruned())
    twice = Pack().apply(once.graph)
    assert not twice.modified
    assert [match.refused.reason for match in twice.matches if match.refused] == ["already packed as block:4x1"] * 2


def test_refuses_with_numbers() -> None:
    sites = [linear("dense"), conv("grouped", out=64, channels=64, groups=2)]
    slightly = Prune(sparsity=0.1).apply(FakeGraph([linear("slightly", 64, 64)])).graph.sites(WeightSite)
    result = Pack().apply(FakeGraph([*sites, *slightly]))
    assert not result.modified
    assert [str(match.refused) for match in result.matches] == [
        "layer 'dense': no zeros",
        "layer 'grouped': grouped convolution (2 groups) has no sparse operator",
        "layer 'slightly': sparsity 0.10: csr would take 1.37x the dense bytes",
    ]


def test_only_the_formats_and_targets_asked_for() -> None:
    step = Pack(formats=("csr",), targets=("a",))
    assert [action.format.key for action in storing(step, pruned())] == ["csr"]
    assert [match.site.name for match in step.apply(pruned()).matches] == ["a"]
    with pytest.raises(RecipeError, match=r"^formats: no 'bloc'; did you mean 'block'"):
        Pack(formats=("bloc",))
    with pytest.raises(RecipeError, match=r"^formats: empty"):
        Pack(formats=())


def test_half_precision_is_stored_in_half_the_bytes() -> None:
    half = linear("a", stored=torch.randn(64, 64).to(torch.bfloat16))
    [action] = storing(Pack(), Prune(pattern="2:4").apply(FakeGraph([half])).graph)
    assert action.bytes_dense == 64 * 64 * 2
    assert str(action).startswith("nm:2:4, 0.56 of")
