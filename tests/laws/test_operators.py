"""Every operator of the vocabulary means something on every host: a pass's example puts it into a graph, and the graph runs."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from sparsecc import registry
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.ops import kind_of, name_of, operator
from sparsecc.ops.base import TORCH_NAMESPACE
from tests.laws.hosts import HOSTS, graph, outputs
from tests.laws.pass_laws import calibrated, with_zeros
from tests.laws.passes import EXAMPLES
from tests.tolerance import assert_close


def operators(of: Graph) -> set[str]:
    """Names of the operators that a graph calls, as the folders of `ops/` are called."""
    if isinstance(of, FxGraph):
        calls = [str(node.target).split(".") for node in of.module.graph.nodes if node.op == "call_function"]
        return {call[1] for call in calls if call[0] == TORCH_NAMESPACE}
    assert isinstance(of, OnnxGraph)
    return {name_of(function.name) for function in of.proto().functions}


@pytest.mark.parametrize("name", registry.members("ops"))
def test_it_is_called_alike_everywhere(name: str) -> None:
    assert operator(name).__name__ == kind_of(name)
    assert name_of(f"{kind_of(name)}_and_more") == name
    assert hasattr(getattr(torch.ops, TORCH_NAMESPACE), name)


@pytest.mark.parametrize("host", HOSTS)
def test_a_pass_makes_each_of_them_and_the_graph_runs(host: str) -> None:
    made: set[str] = set()
    for case in EXAMPLES:
        for name in case.on if case.runs_on(host) else ():
            after = case.step.apply(with_zeros(host, name), calibrated(host, name)).graph
            made |= operators(after)
            assert outputs(after, name)[0].shape == outputs(graph(host, name), name)[0].shape
            if not case.step.changes_outputs:
                assert_close(outputs(after, name)[0], outputs(with_zeros(host, name), name)[0])
    known = [name for name in registry.members("ops") if host == "fx" or importlib.util.find_spec(f"sparsecc.ops.{name}.{host}")]
    missing = set(known) - made
    assert not missing, f"{host}: nothing makes {', '.join(sorted(missing))}; give the pass that does an example which puts it into a graph"
