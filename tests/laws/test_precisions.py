"""What holds for every precision: keys, rounding to the nearest, packing that changes nothing, files that mean what torch computes."""

from __future__ import annotations

import pytest
import torch

from sparsecc import formats, precisions, registry
from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from sparsecc.precisions.base import Quantized
from tests.graph import onnx_models as models
from tests.laws.members import PRECISIONS
from tests.ops.layers import model_of
from tests.ops.quantized_linear.schemes import COLS, ROWS, every_scheme, stored
from tests.tolerance import assert_close

every_key = pytest.mark.parametrize("key", [precision.key for precision in PRECISIONS])


def quantized(key: str, weight: torch.Tensor) -> Quantized:
    return precisions.from_key(key).quantize(weight, largest_input=2.0)


@every_key
def test_keys_are_read_back(key: str) -> None:
    precision = precisions.from_key(key)
    assert precision.key == key
    assert precision.dtype in registry.members("precisions")
    for format in (None, formats.from_key("block:1x4"), formats.from_key("csr")):
        scheme = precisions.Scheme(precision, format)
        assert precisions.scheme_from_key(scheme.key) == scheme


@every_key
def test_weights_are_off_by_half_a_step_at_most(key: str) -> None:
    weight = torch.randn(5, 12) * torch.logspace(-3, 3, 5)[:, None]
    weight[2] = 0
    found = quantized(key, weight)
    step = found.scheme.precision.step * weight.abs().amax(dim=1, keepdim=True)
    assert ((found.dense() - weight).abs() <= step * 0.501).all()
    assert found.dense().dtype == torch.float32
    assert (found.dense()[2] == 0).all()
    assert found.nbytes < weight.numel() * 4


@every_key
def test_packing_changes_no_weight(key: str) -> None:
    weight = torch.randn(8, 16) * (torch.rand(8, 4) < 0.5).repeat_interleave(4, dim=1)
    dense = quantized(key, weight)
    packed = dense.packed(formats.from_key("block:1x4"), weight != 0)
    assert torch.equal(packed.dense(), dense.dense())
    assert packed.scheme.key == f"{key}/block:1x4"
    assert tuple(packed.tensors) == packed.scheme.tensor_names


@every_key
def test_a_weight_of_zero_stays_zero_however_it_is_rounded(key: str) -> None:
    torch.manual_seed(0)  # gptq is better nearly always
    precision, weight = precisions.from_key(key), torch.rand(8, 40) + 0.5
    weight[:, ::3] = 0
    x = torch.randn(90, 40) @ torch.randn(40, 40)
    found = [quantized(key, weight), *([precision.quantize_for(weight, x.T @ x)] if "gptq" in precision.methods else [])]
    for rounded in found:
        assert not rounded.dense()[weight == 0].any()
        assert not rounded.keep()[weight == 0].any()
    errors = [float(((rounded.dense() - weight) @ x.T).norm()) for rounded in found]
    assert errors[-1] <= errors[0]


@every_key
def test_integers_are_the_weight(key: str) -> None:
    rounded = quantized(key, torch.randn(8, 40))
    found = rounded.integers()
    assert (found is None) == (not rounded.scheme.precision.groups_known)
    if found is not None:
        scales, zeros = (of.repeat_interleave(found.group, dim=1)[:, :40] for of in (found.scales, found.zeros))
        assert torch.equal(scales * (found.numbers.float() - zeros.float()), rounded.dense())


@every_key
def test_inputs_are_rounded_once(key: str) -> None:
    found = quantized(key, torch.randn(4, 8))
    x = torch.randn(3, 8).clamp(-2, 2)
    precision = found.scheme.precision
    once = precision.round_inputs(x, found.scales)
    assert precision.rounds_inputs == (float((once - x).abs().max()) > 0)
    assert float((once - x).abs().max()) <= 2 * precision.step
    torch.testing.assert_close(precision.round_inputs(once, found.scales), once)


@every_key
def test_fields_are_as_the_pass_finds_them(key: str) -> None:
    precision = precisions.from_key(key)
    assert precision.calibrates == hasattr(precision, "calibrated")
    assert bool(precision.weight_bits_known) == hasattr(precision, "weight_bits")
    assert bool(precision.groups_known) == hasattr(precision, "group") == hasattr(precision, "symmetric")
    assert precisions.usual(precision.dtype).dtype == precision.dtype
    assert len(precision.scale_names) == len(set(precision.scale_names))


@every_scheme
@pytest.mark.parametrize("opset", [16, 18])
@pytest.mark.parametrize("bias", [torch.linspace(-1, 1, ROWS), None], ids=["bias", "no_bias"])
def test_a_stock_runtime_computes_what_torch_does(key: str, format: str | None, opset: int, bias: torch.Tensor | None) -> None:
    op, x = QuantizedLinear(stored(key, format), bias), torch.randn(5, COLS)
    x[1] = 0
    found = models.run(model_of(op, [5, COLS], opset), x=x.numpy())[0]
    assert_close(torch.from_numpy(found), op.reference(x))
