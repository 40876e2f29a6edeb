from __future__ import annotations

import torch

from sparsecc.errors import Refused
from sparsecc.formats.csr import Csr
from sparsecc.patterns.unstructured import Unstructured

CSR = Csr(Unstructured())


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 0.0], [7.0, 0.0, 9.0]])
    packed = CSR.pack(weight, weight != 0)
    assert list(packed.tensors) == ["values", "cols", "row_ptr"]
    assert packed.tensors["values"].tolist() == [2, 3, 7, 9]
    assert packed.tensors["cols"].dtype == torch.uint16
    assert packed.tensors["cols"].tolist() == [1, 2, 0, 2]
    assert packed.tensors["row_ptr"].dtype == torch.int32
    assert packed.tensors["row_ptr"].tolist() == [0, 2, 2, 4]


def test_wide_matrices_take_wide_indices() -> None:
    weight = torch.zeros(2, 70_000)
    weight[1, 69_999] = 5
    packed = CSR.pack(weight, weight != 0)
    assert packed.tensors["cols"].dtype == torch.int32
    assert torch.equal(packed.dense(), weight)
    assert packed.nbytes == CSR.bytes_packed(2, 70_000, 1)


def test_more_weights_than_row_pointers_count() -> None:
    assert isinstance(CSR.check(2**16, 2**15), Refused)
    assert CSR.check(2**15, 2**15) is None


def test_an_explicit_zero_is_stored() -> None:
    weight = torch.tensor([[0.0, 1.0]])
    packed = CSR.pack(weight, torch.tensor([[True, True]]))
    assert packed.tensors["values"].tolist() == [0, 1]
