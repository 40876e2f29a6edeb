"""formats/__init__.py: patterns, keys, and recognizing what a mask is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc import formats
from sparsecc.errors import RecipeError, Refused
from sparsecc.formats.base import Format
from sparsecc.formats.block import Block
from sparsecc.formats.csr import Csr
from sparsecc.formats.nm import NM

PATTERNS = {"unstructured": Csr(), "4x1": Block(4, 1), "1x16": Block(1, 16), "2:4": NM(2, 4), "3:7": NM(3, 7)}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_a_format_and_a_key_reads_back(pattern: str) -> None:
    format = formats.from_pattern(pattern)
    assert format == PATTERNS[pattern]
    assert format.pattern == pattern
    assert formats.from_key(format.key) == format
    assert len({format, PATTERNS[pattern]}) == 1


def test_keys() -> None:
    assert [f.key for f in PATTERNS.values()] == ["csr", "block:4x1", "block:1x16", "nm:2:4", "nm:3:7"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("3:2", "did you mean '2:3'"),
        ("0:4", "keeps nothing"),
        ("4:4", "keeps every weight"),
        ("2:512", "at most 256"),
        ("0x4", "at least one row"),
        ("1x1", "unstructured"),
        ("2;4", "did you mean '2:4' or '2x4'"),
        ("4x", "none of"),
        ("", "none of"),
        ("block", "none of"),
    ],
)
def test_patterns_that_cannot_be(pattern: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        formats.from_pattern(pattern)


@pytest.mark.parametrize("key", ["csr:4x1", "block", "block:2:4", "nm:4x1", "coo", "nm:02:4", ""])
def test_keys_that_nobody_writes(key: str) -> None:
    with pytest.raises(RecipeError):
        formats.from_key(key)


def stored_as(keep: Tensor, **options: Any) -> Format:
    found = formats.cheapest(keep, **options)
    assert not isinstance(found, Refused), found.reason
    return found.format


SHAPES = ["16x1", "8x1", "4x1", "2x1", "1x2", "1x4", "1x8", "1x16", "2x2", "4x4", "8x8", "16x16", "3x1", "6x4", "48x1"]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4", "4:8", "1:2", "4:16", "2:6", *SHAPES])
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_a_mask_is_recognized_as_its_pattern(pattern: str, sparsity: float) -> None:
    format = formats.from_pattern(pattern)
    keep = format.project(torch.rand(192, 288, generator=torch.Generator().manual_seed(1)), sparsity)
    assert stored_as(keep) == format


@pytest.mark.parametrize("pattern", ["4x1", "2:4"])
def test_stray_zeros_do_not_change_the_pattern(pattern: str) -> None:
    format = formats.from_pattern(pattern)
    keep = format.project(torch.rand(64, 64, generator=torch.Generator().manual_seed(1)), 0.5)
    keep[keep.nonzero()[::50].unbind(1)] = False
    assert isinstance(format.holds(keep), Refused)
    assert stored_as(keep) == format


def test_nothing_to_gain_is_refused_with_numbers() -> None:
    keep = formats.from_pattern("unstructured").project(torch.rand(64, 64), 0.12)
    refused = formats.cheapest(keep)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("sparsity 0.12: csr would take 1.3")
    assert formats.cheapest(torch.ones(8, 8, dtype=torch.bool)) == Refused("no zeros")
    only_nm = formats.cheapest(keep, formats=("nm",))
    assert isinstance(only_nm, Refused)
    assert "none of the formats nm" in only_nm.reason or "would take" in only_nm.reason


def test_narrow_types_gain_less() -> None:
    keep = formats.from_pattern("unstructured").project(torch.rand(256, 256), 0.45)
    assert stored_as(keep, itemsize=4) == Csr()
    assert isinstance(formats.cheapest(keep, itemsize=2), Refused)


def test_only_the_formats_asked_for() -> None:
    keep = Block(4, 1).project(torch.rand(64, 64), 0.8)
    assert stored_as(keep, formats=("csr",)) == Csr()
    with pytest.raises(RecipeError, match="did you mean 'csr'"):
        formats.cheapest(keep, formats=("csrr",))


def test_fits_are_sorted_and_their_bytes_are_true() -> None:
    weight = torch.randn(32, 32)
    keep = Block(4, 1).project(weight.abs(), 0.7)
    found = formats.fits(keep)
    assert [f.bytes_packed for f in found] == sorted(f.bytes_packed for f in found)
    for fit in found:
        packed = fit.format.pack(weight, keep)
        assert packed.nbytes == fit.bytes_packed
        assert packed.tensors["values"].numel() == fit.stored
        assert torch.equal(packed.dense(), weight * keep)
