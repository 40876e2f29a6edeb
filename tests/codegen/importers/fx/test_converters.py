"""Each converter against torch, all in one build."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.errors import ModelError
from tests.codegen.whole import Case, compare, random
from tests.tolerance import assert_close

X = random(2, 6, 5)
IMAGE = random(2, 4, 9, 7)
NORM = nn.LayerNorm(5, bias=False)
NORM.weight.data = random(5)


def trained(norm: nn.Module) -> nn.Module:
    """With statistics and weights other than the initial ones."""
    for i, values in enumerate((*norm.parameters(), *norm.buffers())):
        if values.is_floating_point():
            values.data = random(len(values), seed=i).abs() + 0.5
    return norm


CASES: dict[str, Case] = {
    "copies": (lambda x: x.clone().contiguous().detach() + 1, (X,)),
    "dropout": (lambda x: functional.dropout(x, 0.5, training=False) + 1, (X,)),
    "to int": (lambda x: (3 * x).to(torch.int32), (X,)),
    "to float": (lambda x: x.to(torch.float32) / 3, (torch.arange(12).reshape(3, 4),)),
    "to the dtype of another": (lambda x, y: x.to(y) / 3, (torch.arange(12).reshape(3, 4), random(1))),
    "bool to float": (lambda x: (x > 0).float(), (X,)),
    "where two numbers": (lambda x: torch.where(x > 0, 1.5, -2.0), (X,)),
    "where other": (lambda x: torch.where(x > 0, x, -2.0), (X,)),
    "where self": (lambda x: torch.where(x > 0, 3.0, x), (X,)),
    "reshape": (lambda x: x.reshape(3, -1) + 1, (X,)),
    "view": (lambda x: x.view(12, 5) + 1, (X,)),
    "flatten": (lambda x: x.flatten(1) + 1, (X,)),
    "flatten the middle": (lambda x: x.flatten(1, 2) + 1, (IMAGE,)),
    "reshape what was transposed": (lambda x: x.transpose(1, 2).reshape(2, 30) + 1, (X,)),
    "amax": (lambda x: x.amax(1), (X,)),
    "amax of two axes, kept": (lambda x: x.amax((0, -1), keepdim=True), (X,)),
    "amax of all": (lambda x: x.amax() + x, (X,)),
    "amin": (lambda x: x.amin(-1), (X,)),
    "prod": (lambda x: x.prod(1), (X,)),
    "var": (lambda x: x.var(-1), (X,)),
    "var, biased": (lambda x: x.var(1, correction=0, keepdim=True), (X,)),
    "var of two axes": (lambda x: x.var((0, 2)), (X,)),
    "var of all": (lambda x: x.var() + x, (X,)),
    "std": (lambda x: x.std(-1), (X,)),
    "std, correction 2": (lambda x: x.std(1, correction=2), (X,)),
    "conv2d same": (nn.Conv2d(4, 3, 3, padding="same"), (IMAGE,)),
    "conv2d same, even kernel, dilated": (nn.Conv2d(4, 3, (2, 4), padding="same", dilation=(3, 1)), (IMAGE,)),
    "conv2d same, groups, no bias": (nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), (IMAGE,)),
    "conv2d valid, strided": (nn.Conv2d(4, 3, 3, padding="valid", stride=(2, 1)), (IMAGE,)),
    "rsub": (lambda x: 1 - x, (X,)),
    "rsub with alpha": (lambda x: torch.rsub(x, 2.0, alpha=3.0), (X,)),
    "rsub of integers": (lambda x: 1.5 - x, (torch.arange(12).reshape(3, 4),)),
    "index one axis": (lambda x, i: x[i], (X, torch.tensor([1, 0, 1]))),
    "index two axes": (lambda x, i, j: x[i, j], (X, torch.tensor([1, 0, 1]), torch.tensor([5, 0, 2]))),
    "index from the end": (lambda x, i, j: x[i, j], (X, torch.tensor([-1, 0]), torch.tensor([-6, -1]))),
    "index and broadcast": (lambda x, i, j: x[i[:, None], j], (X, torch.tensor([-1, 0]), torch.tensor([5, 0, -2]))),
    "index behind a slice": (lambda x, i: x[:, i], (X, torch.tensor([3, 0, 3]))),
    "index the last axes": (lambda x, i, j: x[:, i, j], (X, torch.tensor([1, -1]), torch.tensor([-2, 0]))),
    "index axes that are no neighbours": (lambda x, i, j: x[i[:, None], :, j], (X, torch.tensor([1, -1]), torch.tensor([-2, 0]))),
    "unfold": (nn.Unfold(3, padding=1, stride=2), (IMAGE,)),
    "max and its place": (lambda x: x.max(1), (X,)),
    "min and its place, kept": (lambda x: x.min(-1, keepdim=True), (X,)),
    "any and all": (lambda x: ((x > 3).any(), (x > -9).all(), (x > 0).any(1)), (X,)),
    "any of floats": (lambda x: (x.any(), (0.1 * x).any(), (0 * x).any()), (X,)),
    "division of integers": (lambda x: (x / 4, x / x.max()), (torch.arange(1, 13),)),
    "division of floats": (lambda x, y: (x / y, x / 3), (X, random(5))),
    "elu": (nn.ELU(0.7), (X,)),
    "celu": (nn.CELU(2.0), (X,)),
    "elu and celu by numbers that are not positive": (
        lambda x: (nn.functional.celu(x, -1.5), nn.functional.elu(x, 0.0), nn.functional.elu(x, -0.5)),
        (X,),
    ),
    "selu": (nn.SELU(), (X,)),
    "average pooling": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (IMAGE,)),
    "grid sample": (lambda x, g: functional.grid_sample(x, g, align_corners=False), (IMAGE, random(2, 3, 5, 2).tanh())),
    "grid sample, nearest, border": (
        lambda x, g: functional.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True),
        (IMAGE, random(2, 3, 5, 2)),
    ),
    "batch norm after an activation": (nn.Sequential(nn.ReLU(), trained(nn.BatchNorm2d(4))), (IMAGE,)),
    "batch norm of rows": (trained(nn.BatchNorm1d(5)), (random(7, 5),)),
    "batch norm without weights": (trained(nn.BatchNorm1d(6, affine=False)), (X,)),
    "layer norm without bias": (NORM, (X,)),
    "group norm": (trained(nn.GroupNorm(2, 4)), (IMAGE,)),
    "group norm without weights": (nn.GroupNorm(4, 4, affine=False), (IMAGE,)),
    "instance norm by known statistics": (trained(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), (IMAGE,)),
    "instance norm of series": (trained(nn.InstanceNorm1d(6, affine=True)), (X,)),
    "layer norm without weight": (nn.LayerNorm([6, 5], elementwise_affine=False, eps=1e-3), (X,)),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(CASES)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert_close(compiled, oracle)


def test_pooling_by_a_divisor_of_ones_own_is_refused() -> None:
    program = torch.export.export(nn.AvgPool2d(2, divisor_override=3), (IMAGE,), strict=False)
    with pytest.raises(ModelError, match=r"^the compiler cannot take avg_pool2d\.default \(at .*\): divisor_override$"):
        import_fx(program)


@pytest.mark.filterwarnings("ignore:var")
def test_var_of_one_number_is_nan() -> None:
    [(compiled, oracle)] = compare({"var": (lambda x: x.var(-1), (X[..., :1],))})["var"]
    assert oracle.isnan().all()
    assert compiled.isnan().all()
