from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sparsecc.codegen import compiler
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.workload import Collector, Workload
from tests.codegen.tuning.tasks import HERE
from tests.codegen.whole import fixed, packed, random

X = random(16, 32)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.head = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.a(torch.relu(self.b(x)))
        return self.c(x)


def collected(folder: Path, sparsity: float) -> Workload:
    graph = fixed(Residual(), X)
    collector = Collector(HERE, measure=False, folder=folder)
    compiler.choose(packed(graph, "4x1", sparsity) if sparsity else graph, [X], collector)
    return collector.workload


def test_equal_layers_are_one_task(tmp_path: Path) -> None:
    """Residuals cost every kernel the same, activations do not."""
    workload = collected(tmp_path, 0)
    plain, relu = (Task("dense_matmul", MatmulSpec.linear(32, 32, 1, 16, Epilogue(act))) for act in (None, "relu"))
    assert workload.layers == {(plain,): 2, (relu,): 1}
    assert workload.weights == {}
    assert workload.rivals(plain) == []


def test_packed_layers_may_run_sparse_or_dense(tmp_path: Path) -> None:
    workload = collected(tmp_path, 0.75)
    assert sum(workload.layers.values()) == 3
    assert [task.kernel for task in workload.tasks] == sorted(task.kernel for task in workload.tasks), "those that any weight fits first"
    for sparse, dense in workload.layers:
        assert (sparse.kernel, dense.kernel) == ("row_block_spmm", "dense_matmul")
        assert sparse.spec == dense.spec and sparse.structure is not None
        matrix = np.load(workload.weights[sparse])
        assert sparse.structure.density == 0.25 == (matrix != 0).mean()
        assert workload.rivals(sparse) == [dense]
        assert sparse in workload.rivals(dense)
    assert set(workload.weights) == {sparse for sparse, _ in workload.layers}
