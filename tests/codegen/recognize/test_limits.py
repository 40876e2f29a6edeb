from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsecc.codegen.compiler import build
from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.codegen.recognize.limits import limits_of
from sparsecc.codegen.recognize.program import Program
from sparsecc.graph.fx.graph import FxGraph
from tests.codegen.whole import HERE, Lambda, Parallel, fixed, run


class Tables(nn.Module):
    """Two tables read by one input, one by a sum of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small, self.third = nn.Embedding(10, 4), nn.Embedding(7, 4), nn.Embedding(5, 4)

    def forward(self, ids: torch.Tensor, others: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.large(ids) + self.small(ids) + self.third(ids * 0 + others) + x


def test_the_smallest_table_limits_what_indexes_it() -> None:
    inputs = (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4))
    graph = FxGraph.from_module(Tables(), inputs)
    assert limits_of(Program.of(import_fx(graph.specialize(inputs)))) == [(0, 7), None, None]


@pytest.mark.parametrize(
    ("node", "indices", "limit"),
    [
        (helper.make_node("Gather", ["w", "i"], ["y"], axis=1), [3], (-10, 10)),
        (helper.make_node("GatherElements", ["w", "i"], ["y"], axis=1), [4, 2], (-10, 10)),
        (helper.make_node("GatherND", ["w", "i"], ["y"]), [3, 2], (-10, 10)),
        (helper.make_node("GatherND", ["w", "i"], ["y"]), [3, 1], (-4, 4)),
        (helper.make_node("ScatterElements", ["w", "i", "u"], ["y"], axis=1), [4, 10], (-10, 10)),
    ],
)
def test_onnx_counts_from_the_end(node: onnx.NodeProto, indices: list[int], limit: tuple[int, int]) -> None:
    stored = [numpy_helper.from_array(np.ones((4, 10), np.float32), name) for name in node.input if name != "i"]
    given, made = (
        helper.make_tensor_value_info("i", TensorProto.INT64, indices),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    )
    graph = onnx.shape_inference.infer_shapes(
        helper.make_model(
            helper.make_graph([node], "g", [given], [made], stored), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        )
    )
    assert limits_of(Program.of(import_onnx(graph))) == [limit]


def ids(*values: Any) -> torch.Tensor:
    return torch.tensor(values)


TABLE = torch.arange(24.0).reshape(4, 6)
READERS: list[tuple[Callable[..., Any], list[torch.Tensor], list[tuple[int, int] | None]]] = [
    (lambda x, i: torch.gather(x, 1, i), [TABLE, ids([1, 2], [0, 5])], [None, (0, 6)]),
    (lambda x, i, j: x[i, j], [TABLE, ids(1, -4), ids(5, -1)], [None, (-4, 4), (-6, 6)]),
    (lambda x, i: x[:, i], [TABLE, ids(1, -6)], [None, (-6, 6)]),
    (lambda x, i: x.index_select(1, i), [TABLE, ids(1, 5)], [None, (0, 6)]),
    (lambda x, i: x[torch.where(i >= 4, 0, i)], [TABLE, ids(1, 90)], [None, None]),
    (lambda x, i: x[torch.where(i < 0, i + 4, i)], [TABLE, ids(1, -2)], [None, (-4, 4)]),
    (lambda x, i: x.scatter(1, i, 7.0), [TABLE, ids([1], [2], [0], [5])], [None, (-6, 6)]),
    (lambda x, i, j: x.index_put((i, j), torch.ones(2)), [TABLE, ids(1, -1), ids(-6, 5)], [None, (-4, 4), (-6, 6)]),
]


def test_what_torch_reads_and_writes_by_index() -> None:
    inputs = [x for _, given, _ in READERS for x in given]
    together = Parallel([Lambda(function) for function, _, _ in READERS], [len(given) for _, given, _ in READERS])
    library, _ = build(fixed(together, *inputs), inputs, HERE, measure=False)
    expected = [limit for _, _, limits in READERS for limit in limits]
    assert [library.limits.get(spec.name) for spec in library.inputs] == expected
    for out, (function, given, _) in zip(run(library, inputs), READERS, strict=True):
        assert out.equal(function(*given))


def test_a_computed_index_stays_in_its_table() -> None:
    """Entries far off give some other entry of the table, they do not leave it."""

    def read(x: torch.Tensor, i: torch.Tensor) -> Any:
        far = i * 2**33
        return torch.gather(x, 1, far), x[far[:, 0], far[:, 1]], x.scatter(1, far, 7.0), x.index_put((far[:, 0], far[:, 1]), torch.ones(4))

    inputs = [TABLE, ids([0, 0], [0, 0], [0, 0], [0, 0])]
    library, _ = build(fixed(Lambda(read), *inputs), inputs, HERE, measure=False)
    far = ids([1, -1], [2, -2], [3, -3], [4, -4]) * 2**33
    gathered, indexed, scattered, put = run(library, [TABLE, ids([1, -1], [2, -2], [3, -3], [4, -4])])
    assert gathered.equal(torch.gather(TABLE, 1, far % 6))
    assert indexed.equal(TABLE[far[:, 0] % 4, far[:, 1] % 6])
    assert scattered.equal(TABLE.scatter(1, far % 6, 7.0))
    assert put.equal(TABLE.index_put((far[:, 0] % 4, far[:, 1] % 6), torch.ones(4)))
