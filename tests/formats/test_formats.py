"""formats/__init__.py: keys, and recognizing what a mask is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc import formats, patterns
from sparsecc.errors import RecipeError, Refused
from sparsecc.formats.base import Format
from sparsecc.formats.block import BlockFormat
from sparsecc.formats.csr import Csr
from sparsecc.formats.nm import NMFormat
from sparsecc.patterns.block import Block
from sparsecc.patterns.nm import NM
from sparsecc.patterns.unstructured import Unstructured

KEYS = {
    "csr": Csr(Unstructured()),
    "block:4x1": BlockFormat(Block(4, 1)),
    "block:1x16": BlockFormat(Block(1, 16)),
    "nm:2:4": NMFormat(NM(2, 4)),
    "nm:3:7": NMFormat(NM(3, 7)),
}


@pytest.mark.parametrize(("key", "format"), KEYS.items())
def test_a_key_reads_back_and_a_pattern_has_a_default_format(key: str, format: Format) -> None:
    assert formats.from_key(key) == format
    assert format.key == key
    assert formats.storing(format.pattern) == format


def test_a_pattern_without_a_format_of_its_own_is_stored_as_any_mask() -> None:
    class Odd(Unstructured):
        pass

    assert formats.storing(Odd()).key == "csr"


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
    found = patterns.parse(pattern)
    keep = found.project(torch.rand(192, 288, generator=torch.Generator().manual_seed(1)), sparsity)
    assert stored_as(keep).pattern == found


@pytest.mark.parametrize("pattern", ["4x1", "2:4"])
def test_stray_zeros_do_not_change_the_pattern(pattern: str) -> None:
    found = patterns.parse(pattern)
    keep = found.project(torch.rand(64, 64, generator=torch.Generator().manual_seed(1)), 0.5)
    keep[keep.nonzero()[::50].unbind(1)] = False
    assert isinstance(found.holds(keep), Refused)
    assert stored_as(keep).pattern == found


def test_nothing_to_gain_is_refused_with_numbers() -> None:
    keep = patterns.parse("unstructured").project(torch.rand(64, 64), 0.12)
    refused = formats.cheapest(keep)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("sparsity 0.12: csr would take 1.3")
    assert formats.cheapest(torch.ones(8, 8, dtype=torch.bool)) == Refused("no zeros")
    only_nm = formats.cheapest(keep, formats=("nm",))
    assert isinstance(only_nm, Refused)
    assert "none of the formats nm" in only_nm.reason or "would take" in only_nm.reason


def test_narrow_types_gain_less() -> None:
    keep = patterns.parse("unstructured").project(torch.rand(256, 256), 0.45)
    assert stored_as(keep, itemsize=4).key == "csr"
    assert isinstance(formats.cheapest(keep, itemsize=2), Refused)


def test_only_the_formats_asked_for() -> None:
    keep = Block(4, 1).project(torch.rand(64, 64), 0.8)
    assert stored_as(keep, formats=("csr",)).key == "csr"
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
