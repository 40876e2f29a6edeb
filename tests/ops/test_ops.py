"""An operator is a folder: hosts and importers find it by its name, also where another package brings it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc import ops, registry
from sparsecc.codegen.backend import parse
from sparsecc.codegen.compiler import build
from sparsecc.errors import ModelError, RecipeError, RecipeWarning
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear
from sparsecc.ops.sparse_linear.torch import SparseLinear
from tests.codegen.whole import run
from tests.graph import fx_models
from tests.graph import onnx_models as models
from tests.ops.gained_linear import MODULES, POINTS
from tests.packages import installed
from tests.tolerance import assert_close


def test_an_operator_is_known_by_its_folder_its_class_and_its_nodes() -> None:
    assert ops.operator("sparse_linear") is ops.layer("sparse_linear") is SparseLinear
    assert (ops.kind_of("sparse_conv2d"), ops.name_of("SparseConv2d_nm_2_4_nobias")) == ("SparseConv2d", "sparse_conv2d")
    assert ops.layer_functions("SparseLinear_csr").operator is SparseLinear


def test_other_names_are_refused() -> None:
    for name in ("SparseAttention_csr", "sparse_linear", "Packed", ""):
        with pytest.raises(RecipeError, match="ops: no "):
            ops.name_of(name)
    with pytest.raises(TypeError, match="exactly one SiteOp"):
        ops.layer("block_attention")


@pytest.fixture(scope="module")
def gained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type]:
    with installed(tmp_path_factory.mktemp("site") / "package", "mine", POINTS, MODULES):
        yield ops.layer("gained_linear")


def gain(graph: Graph, operator: Any) -> None:
    for site in graph.sites(Linear):
        gains = site.matrix.norm(dim=1, keepdim=True)
        weight = operator.storage("gains").hold(site.rows, site.cols, [site.matrix / gains, gains])
        graph.replace(site, operator(weight, site.bias))


def outputs_of(graph: Graph, inputs: tuple[Tensor, ...]) -> Tensor:
    """Of the compiled graph, after a look at its sites."""
    assert [site.form.key for site in graph.sites(Linear) if site.form] == ["gains"] * len(graph.sites(Linear))
    library, _ = build(graph, inputs, parse("reference", 1))
    return run(library, inputs)[0]


def test_torch_runs_it_and_the_compiler_takes_it(gained: type) -> None:
    assert "gained_linear" in registry.members("ops")
    module, inputs, before = fx_models.case("mlp")
    graph = before.copy()
    gain(graph, gained)
    expected = module(*inputs)
    assert_close(graph.run(inputs).outputs[0], expected)
    assert isinstance(graph, FxGraph)
    assert_close(outputs_of(graph, inputs), expected)


def test_a_file_carries_it_and_is_read_back(gained: type) -> None:
    proto, x = models.mlp(), torch.randn(3, 32)
    graph = OnnxGraph.from_proto(proto)
    gain(graph, gained)
    made, expected = graph.proto(), torch.from_numpy(models.run(proto, x=x.numpy())[0])
    assert {function.name for function in made.functions} == {"GainedLinear_gains"}
    assert_close(torch.from_numpy(models.run(made, x=x.numpy())[0]), expected)
    assert_close(outputs_of(OnnxGraph.from_proto(made), (x,)), expected)


CONV1D = "from sparsecc.ops.base import SiteOp\nclass BrokenLinear(SiteOp):\n    takes = ('Conv1d',)\n"


@pytest.mark.parametrize("source", ["raise RuntimeError('boom')", "import nothing_here", "", CONV1D])
def test_one_that_is_broken_is_in_the_way_of_no_model_without_it(source: str, tmp_path: Path) -> None:
    module, inputs, graph = fx_models.case("mlp")
    graph.save(tmp_path / "m.pt2")
    modules = {"broken_linear/__init__": "", "broken_linear/torch": source}
    with installed(tmp_path, "theirs", "[sparsecc.ops]\nbroken_linear = broken_linear\n", modules):
        library, _ = build(graph, inputs, parse("reference", 1))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RecipeWarning)
            FxGraph.load(tmp_path / "m.pt2")
    assert_close(run(library, inputs)[0], module(*inputs))
    words = "ops: 'broken_linear' of package theirs has no Operator in 'torch'"
    found = [str(each.message) for each in said if each.category is RecipeWarning]
    assert [message.startswith(words) for message in found] == [True] * (source != CONV1D)


def test_without_its_package_the_file_is_refused(gained: type) -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    gain(graph, gained)
    made = graph.proto()
    for function in made.functions:
        function.name = function.name.replace("Gained", "Unknown")
    for node in made.graph.node:
        node.op_type = node.op_type.replace("Gained", "Unknown")
    with pytest.raises(ModelError, match=r"no UnknownLinear_gains that this version of sparsecc writes .ops: no UnknownLinear"):
        OnnxGraph.from_proto(made)
