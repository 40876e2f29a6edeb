"""What the primitives refuse; `tests/ops/test_onnx_decoding.py` compares what they compute with the ONNX ones."""

from __future__ import annotations

import pytest
import torch

from sparsecc.errors import ModelError
from sparsecc.formats import from_key
from sparsecc.formats._torch_ops import TorchOps

OPS = TorchOps(2, 4)
VALUES = torch.tensor([1.0, 2, 3])


def test_a_slice_ends_within_the_tensor() -> None:
    assert OPS.slice(VALUES, OPS.ints(1), OPS.ints(3)).tolist() == [2, 3]
    with pytest.raises(ValueError, match="1 to 4 is outside of 3 entries"):
        OPS.slice(VALUES, OPS.ints(1), OPS.cols)


def test_row_pointers_count_what_is_stored() -> None:
    assert OPS.row_of_each(torch.tensor([0, 0, 3]), OPS.ints(3)).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="row pointers count 2 stored units, there are 3"):
        OPS.row_of_each(torch.tensor([0, 0, 2]), OPS.ints(3))


def test_places_and_values_are_of_one_shape() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        OPS.scatter(torch.zeros(2, 4), torch.tensor([[0], [1]]), torch.ones(2, 2), axis=1)
    with pytest.raises(ValueError, match="do not fit"):
        OPS.scatter(torch.zeros(2, 4), torch.tensor([[0]]), torch.ones(1, 1), axis=1)


@pytest.mark.parametrize(
    ("key", "tensors"),
    [
        ("csr", {"cols": torch.tensor([0, 4, 1], dtype=torch.uint16)}),
        ("csr", {"row_ptr": torch.tensor([0, 1, 3], dtype=torch.int32)}),
        ("csr", {"row_ptr": torch.tensor([0, 2, 1], dtype=torch.int32)}),
        ("block:2x1", {"cols": torch.tensor([0, 9], dtype=torch.uint16)}),
        ("block:2x1", {"values": torch.ones(2, 1, 2)}),
        ("nm:2:3", {"index": torch.tensor([[0b01_11], [0b01_00]], dtype=torch.uint8)}),
        ("nm:2:3", {"index": torch.tensor([[], []], dtype=torch.uint8)}),
        ("nm:2:3", {"values": torch.ones(1, 2)}),
    ],
)
def test_damaged_tensors_are_said(key: str, tensors: dict[str, torch.Tensor]) -> None:
    format = from_key(key)
    weight = torch.tensor([[1.0, 2, 0], [3, 4, 0]])
    packed = format.pack(weight, weight != 0)
    assert torch.equal(packed.dense(), weight)
    with pytest.raises(ModelError, match="layer 'a': its packed weight is damaged"):
        format.hold(2, 3, [{**packed.tensors, **tensors}[name] for name in format.tensor_names]).dense("a")
