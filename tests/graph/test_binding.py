from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.binding import bind, describe, dtype_name, reject_nan, reject_outside, reject_zero, shapes_of

SPECS = (TensorSpec("ids", ("batch", "tokens"), "int64"), TensorSpec("mask", ("batch", "tokens"), "bool"))


def ids(*shape):
    return np.ones(shape, np.int64)


def mask(*shape):
    return np.ones(shape, bool)


def test_positions_and_names_mix():
    a, b = ids(2, 3), mask(2, 3)
    assert bind(SPECS, (a,), {"mask": b}) == [a, b]
    assert bind(SPECS, ({"mask": b, "ids": a},), {}) == [a, b]


def test_a_near_name_is_offered():
    with pytest.raises(InputError, match="no input 'maks'; did you mean 'mask'"):
        bind(SPECS, (ids(2, 3),), {"maks": mask(2, 3)})


def test_a_named_dimension_has_one_size():
    with pytest.raises(InputError, match="input 'mask' has tokens = 4 at axis 1, but input 'ids' has tokens = 3"):
        bind(SPECS, (ids(2, 3), mask(2, 4)), {})


def test_nan_is_named():
    specs = (TensorSpec("x", (2,), "float32"),)
    reject_nan(specs, [np.zeros(2, np.float32)])
    with pytest.raises(InputError, match="input 'x' holds NaN"):
        reject_nan(specs, [np.array([0, np.nan], np.float32)])


def test_descriptions():
    assert describe(SPECS, shapes_of([ids(2, 3), mask(2, 3)])) == "ids 2x3, mask 2x3"
    assert describe((TensorSpec("s", (), "float32"),), ((),)) == "s scalar"


def test_indices_stay_within_their_table():
    limits = {"ids": (-10, 10)}
    reject_outside(SPECS, [np.array([[0, 9, -10]]), mask(1, 3)], limits)
    for value in (10, -11, 2**40):
        with pytest.raises(InputError, match=f"input 'ids' holds {value}, it indexes a table of 10"):
            reject_outside(SPECS, [np.array([[0, value, -1]]), mask(1, 3)], limits)
    reject_outside(SPECS, [np.full((1, 3), 99), mask(1, 3)], {})
    with pytest.raises(InputError, match="input 'ids' holds -1, it indexes a table of 10 by 0 to 9"):
        reject_outside(SPECS, [np.array([[0, 9, -1]]), mask(1, 3)], {"ids": (0, 10)})


@pytest.mark.parametrize("as_tensor", [np.asarray, torch.tensor])
def test_divisors_are_not_zero(as_tensor):
    reject_zero(SPECS, [as_tensor([[0, 1, 2]]), mask(1, 3)], set())
    reject_zero(SPECS, [as_tensor([[-1, 1, 2]]), mask(1, 3)], {"ids"})
    with pytest.raises(InputError, match="input 'ids' holds 0, and the model divides integers by it"):
        reject_zero(SPECS, [as_tensor([[-1, 1, 0]]), mask(1, 3)], {"ids"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nan_is_found_in_torch_tensors(dtype):
    spec = TensorSpec("x", ("n",), str(dtype).removeprefix("torch."))
    reject_nan([spec], [torch.tensor([1.0, -torch.inf], dtype=dtype, requires_grad=True)])
    reject_nan([spec], [torch.zeros(0, dtype=dtype)])
    with pytest.raises(InputError, match="input 'x' holds NaN"):
        reject_nan([spec], [torch.tensor([1.0, torch.nan, 2.0], dtype=dtype)])


@pytest.mark.parametrize(("tensor", "kind"), [(torch.zeros(2, device="meta"), "meta"), (torch.zeros(2).to_sparse(), "sparse")])
def test_tensors_without_their_values_are_refused(tensor, kind):
    with pytest.raises(InputError, match=f"input 'x' is a {kind} tensor"):
        bind((TensorSpec("x", (2,), "float32"),), (tensor,), {})


def test_names_of_dtypes():
    assert dtype_name(torch.zeros(1, dtype=torch.bfloat16)) == "bfloat16"
    assert dtype_name(np.zeros(1, bool)) == dtype_name(torch.zeros(1, dtype=torch.bool)) == "bool"
