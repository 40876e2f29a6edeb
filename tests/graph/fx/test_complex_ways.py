"""Each operator by real numbers against torch's of complex ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sparsecc.graph.fx.complex_ways import WAYS, Complex
from sparsecc.graph.fx.layers import aten
from tests.tolerance import assert_close

A, B = torch.randn(2, 3, 4, 4, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))[:2]
R = A.real.contiguous()

CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "a complex number times real ones": (aten.mul.Tensor, (R, 2 - 1j)),
    "a complex number times complex ones": (aten.mul.Tensor, (A, 2 - 1j)),
    "by a complex number": (aten.div.Tensor, (A, 2 - 1j)),
    "one by the other": (aten.div.Tensor, (A, B)),
    "added to real ones": (aten.add.Tensor, (R, 1j)),
    "subtracted from real ones": (aten.sub.Tensor, (R, B)),
    "exponential": (aten.exp.default, (A,)),
    "matrix product": (aten.matmul.default, (A, B)),
    "product of stacks": (aten.bmm.default, (A, B)),
    "einsum": (aten.einsum.default, ("bij,bjk->bik", [A, B])),
    "einsum of one": (aten.einsum.default, ("bii->bi", [A])),
    "slice_scatter": (aten.slice_scatter.default, (A, B[:, :2], 1, 1, 3)),
    "copied over": (aten.copy.default, (A, B[:1])),
    "padded": (aten.constant_pad_nd.default, (A, [1, 2, 0, 1], 1.5)),
    "chosen": (aten.where.self, (R > 0, A, B)),
    "joined": (aten.cat.default, ([A, B], -1)),
    "stacked": (aten.stack.default, ([A, B], -1)),
    "flipped": (aten.flip.default, (A, [-1, 0])),
    "rolled": (aten.roll.default, (A, [1, -2], [0, 2])),
    "mean": (aten.mean.dim, (A, [-1], True)),
    "there and back": (aten._fft_c2r.default, (A, [1, 2], 1, 6)),
    "of real ones": (aten._fft_r2c.default, (R, [2, 1], 0, True)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_torchs(name: str) -> None:
    op, given = CASES[name]
    expected = op(*given)
    found = WAYS[op](*pytree.tree_map(_apart, given))
    if expected.is_complex():
        assert isinstance(found, Complex)
        assert_close(found.pairs, torch.view_as_real(expected.resolve_conj()))
    else:
        assert_close(found, expected)


def test_casts_between_real_and_complex() -> None:
    cast = WAYS[aten._to_copy.default]
    assert_close(cast(R, dtype=torch.complex64).pairs, torch.view_as_real(R.to(torch.complex64)))
    assert cast(Complex(torch.view_as_real(A)), dtype=torch.complex128).pairs.dtype == torch.float64
    assert_close(cast(Complex(torch.view_as_real(A)), dtype=torch.float32), A.real)


def _apart(value: Any) -> Any:
    return Complex(torch.view_as_real(value).clone()) if isinstance(value, Tensor) and value.is_complex() else value
