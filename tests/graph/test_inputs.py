"""What a caller may feed to a host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import bind

SPECS = (
    TensorSpec("ids", ("batch", "tokens"), "int64"),
    TensorSpec("mask", ("batch", "tokens"), "float32"),
    TensorSpec("scale", (), "float32"),
)
IDS, MASK = torch.zeros(2, 3, dtype=torch.int64), np.ones((2, 3), np.float32)
SCALE: Any = torch.tensor(1.0)


@pytest.mark.parametrize("inputs", [(IDS, MASK, SCALE), [IDS, MASK, SCALE], {"scale": SCALE, "mask": MASK, "ids": IDS}])
def test_order_names_and_numpy(inputs: Any) -> None:
    ids, mask, scale = bind(SPECS, inputs)
    assert ids is not None and ids.shape == (2, 3)
    assert torch.equal(mask, torch.ones(2, 3))
    assert scale.dtype == torch.float32


def test_numpy_shares_memory_and_read_only_is_copied() -> None:
    assert bind(SPECS, (IDS, MASK, SCALE))[1].data_ptr() == MASK.ctypes.data
    frozen = MASK.copy()
    frozen.flags.writeable = False
    assert bind(SPECS, (IDS, frozen, SCALE))[1].data_ptr() != frozen.ctypes.data


def test_a_single_array_is_one_input() -> None:
    assert bind(SPECS[2:], SCALE)[0].shape == ()


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((IDS, MASK), "'scale' is missing; the model takes 3: ids, mask, scale"),
        ({"ids": IDS, "mask": MASK}, "'scale' is missing"),
        ({"ids": IDS, "masks": MASK, "scale": SCALE}, "no input 'masks'; did you mean 'mask'"),
        ((IDS.int(), MASK, SCALE), "'ids' is int32, the model takes int64"),
        ((IDS, MASK[0], SCALE), r"'mask' has shape \(3,\), the model takes \(batch, tokens\)"),
        ((IDS, MASK[:, :2], SCALE), "'mask' has tokens = 2 at axis 1, but input 'ids' has tokens = 3"),
        ((IDS, np.full_like(MASK, np.nan), SCALE), "'mask' holds NaN"),
        ((IDS, MASK, 1.0), "'scale' is a float; pass a numpy array or a torch tensor"),
        ((IDS, np.array(["a"]), SCALE), "'mask' is <U1, the model takes float32"),
    ],
)
def test_what_is_refused(inputs: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        bind(SPECS, inputs)


def test_a_fixed_size() -> None:
    with pytest.raises(InputError, match=r"'x' has 3 at axis 0, the model takes \(4\)"):
        bind([TensorSpec("x", (4,), "float32")], [torch.zeros(3)])


def test_what_was_looked_at_once_is_taken_as_it_is() -> None:
    sample = bind(SPECS, (IDS, MASK, SCALE))
    assert bind(tuple(SPECS), sample) is sample
    other = (*SPECS[:2], TensorSpec("shift", (), "float32"))
    assert bind(other, sample).specs == other
    with pytest.raises(InputError, match="input 'ids' is int64, the model takes int32"):
        bind((TensorSpec("ids", ("batch", "tokens"), "int32"), *SPECS[1:]), sample)
