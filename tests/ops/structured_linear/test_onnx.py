"""The function bodies compute what the structures mean, in a stock onnxruntime, with as few moves as promised."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import structures
from sparsecc.ops import layer_functions
from sparsecc.ops.structured_linear.torch import StructuredLinear
from tests.graph import onnx_models as models
from tests.laws.members import STRUCTURES
from tests.ops.layers import model_of
from tests.tolerance import assert_close


def check(op: StructuredLinear, x: torch.Tensor, **versions: int) -> None:
    free = [f"d{axis}" for axis in range(x.dim() - 1)]
    ours = models.run(model_of(op, [*free, op.stored.cols], **versions), x=x.numpy())[0]
    assert_close(torch.from_numpy(ours), op.reference(x))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.key)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_linear(structure: structures.Structure, bias: bool, leading: tuple[int, ...]) -> None:
    weight = structure.project(torch.randn(40, 24))
    check(StructuredLinear(weight, torch.randn(40) if bias else None), torch.randn(*leading, 24))


@pytest.mark.parametrize("key", ["armor:4", "kronecker:2x4:3", "low_rank:3", "monarch:2x4:2"])
def test_no_tokens(key: str) -> None:
    op = StructuredLinear(structures.from_key(key).project(torch.randn(8, 16)))
    assert models.run(model_of(op, ["n", 16]), x=torch.randn(0, 16).numpy())[0].shape == (0, 8)


@pytest.mark.parametrize(("opset", "ir_version"), [(16, 8), (19, 9), (21, 10), (24, 11)])
@pytest.mark.parametrize("key", ["armor:4", "kronecker:2x4:3", "low_rank:3", "monarch:2x4:2"])
def test_bodies_fit_every_opset(key: str, opset: int, ir_version: int) -> None:
    weight = structures.from_key(key).project(torch.randn(8, 16))
    check(StructuredLinear(weight, torch.randn(8)), torch.randn(2, 16), opset=opset, ir_version=ir_version)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_any_blocks(b: int, p: int, down: int, across: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = structures.from_key(f"monarch:{b}x{p}:1").project(torch.randn(p * down, b * across))
    check(StructuredLinear(weight, torch.randn(p * down)), torch.randn(2, 3, b * across))


@pytest.mark.parametrize(
    ("key", "moves"),
    [("low_rank:3", 0), ("monarch:2x4:2", 3), ("monarch:1x4:2", 2), ("monarch:4x1:2", 2), ("armor:4", 4), ("kronecker:2x4:3", 2)],
)
def test_activations_move_as_seldom_as_possible(key: str, moves: int) -> None:
    """Once on the way into blocks, between blocks, and out of them; the weights' own transposes are folded ahead."""
    function = layer_functions("StructuredLinear").function(structures.from_key(key), 8, 16, True, 18)
    transposes, products = ([node for node in function if node.op_type == kind] for kind in ("Transpose", "MatMul"))
    assert len(products) == (3 if key.startswith("armor") else 2)
    assert len(transposes) - len(products) == moves


def test_names_say_structure_shape_and_bias() -> None:
    functions = layer_functions("StructuredLinear")
    monarch, low_rank = structures.from_key("monarch:4x8:2"), structures.from_key("low_rank:64")
    assert functions.op_type(monarch, 3072, 768, True) == "StructuredLinear_monarch_4x8_2_3072x768"
    assert functions.op_type(low_rank, 768, 768, False) == "StructuredLinear_low_rank_64_768x768_nobias"
