"""Profiles: every call of the program in order, with the layer that it computes."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparsecc
from sparsecc.codegen.library import KernelCall
from sparsecc.errors import InputError
from sparsecc.report.profile import Profile
from sparsecc.runtime.profile import _rows
from tests.runtime import tiny

BRIEF = 0.05  # seconds
INT8 = {"passes": [{"quantize": {"targets": ["query", "key"]}}, {"prune": {"targets": ["out"], "pattern": "4x1"}}, {"pack": {}}]}


class Layers(nn.Module):
    """Two layers that read one input, a third of the same size, a convolution with a norm that is folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 64, 3, 2, 1)
        self.norm = nn.BatchNorm2d(64)
        self.query, self.key, self.out = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.image(x)).relu().flatten(2).transpose(1, 2)
        return self.out(torch.tanh(self.query(x)) * self.key(x))


@cache
def example() -> Tensor:
    return torch.randn(1, 3, 12, 12)


@cache
def compiled(quantized: bool) -> sparsecc.Compiled:
    torch.manual_seed(0)
    return sparsecc.compile(Layers().eval(), example(), recipe=INT8 if quantized else None, threads=1)


@pytest.mark.parametrize("quantized", [False, True])
def test_every_layer_has_its_calls(quantized: bool) -> None:
    profile = compiled(quantized).profile(example(), seconds=BRIEF)
    assert list(profile.by_site()) == ["image", "query", "key", "out"]
    assert all(row.us > 0 for row in profile.rows) and profile.rounds >= 3 and profile.threads == 1
    assert profile.kernels_us + profile.between * profile.whole_us.median == pytest.approx(profile.whole_us.median)


def test_what_is_rounded_for_two_layers_belongs_to_both() -> None:
    rows = compiled(True).profile(example(), seconds=BRIEF).rows
    assert [row.readers for row in rows if row.kernel == "group_tokens"] == [("query", "key")]
    assert {row.site: row.kernel for row in rows if row.site in ("query", "out")}["out"] != "group_tokens"


def test_the_model_gives_the_same_afterwards() -> None:
    before = compiled(True)(example())
    compiled(True).profile(example(), seconds=BRIEF)
    assert torch.equal(compiled(True)(example()), before)


def test_an_artifact_knows_its_layers(tmp_path: Path) -> None:
    compiled(True).save(tmp_path / "m.sparsecc")
    loaded = sparsecc.load(tmp_path / "m.sparsecc").profile(example(), seconds=BRIEF)
    fresh = compiled(True).profile(example(), seconds=BRIEF)
    assert [(row.symbol, row.site, row.readers) for row in loaded.rows] == [(row.symbol, row.site, row.readers) for row in fresh.rows]
    assert Profile.from_dict(loaded.to_dict()) == loaded


def test_code_that_says_nothing_of_its_calls() -> None:
    profile = tiny.compiled().profile(tiny.example(), seconds=BRIEF)
    assert profile.rows and all((row.site, row.kernel, row.readers) == (None, None, ()) for row in profile.rows)


def test_inputs_are_checked() -> None:
    with pytest.raises(InputError, match="NaN"):
        compiled(False).profile(example() * torch.nan, seconds=BRIEF)


def test_calls_alike_are_told_apart_by_their_order() -> None:
    calls = [KernelCall("dense_0", "a"), KernelCall("group_1", None, ("b",)), KernelCall("dense_0", "b")]
    rows = list(_rows(["dense_0", "fused", "group_1", "dense_0"], [1.0, 2.0, 3.0, 4.0], calls))
    assert [(row.kernel, row.site, row.readers, row.us) for row in rows] == [
        ("dense", "a", (), 1.0),
        (None, None, (), 2.0),
        ("group", None, ("b",), 3.0),
        ("dense", "b", (), 4.0),
    ]


def test_where_a_call_was_left_out_none_of_its_kind_is_named() -> None:
    calls = [KernelCall("dense_0", "a"), KernelCall("dense_0", "b"), KernelCall("last_1", "c")]
    rows = list(_rows(["dense_0", "last_1"], [1.0, 2.0], calls))
    assert Counter(row.site for row in rows) == {None: 1, "c": 1}
