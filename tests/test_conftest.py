"""Which tests are fast, and that these neither export nor load TVM."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import FAST, TESTS, is_fast


def test_what_is_named_exists() -> None:
    assert [entry for entry in FAST if not (TESTS / entry).exists()] == []


def test_files_are_fast_by_their_name_or_their_folder() -> None:
    assert is_fast(TESTS / "criteria" / "test_wanda.py")
    assert is_fast(TESTS / "laws" / "test_members.py")
    assert is_fast(TESTS / "laws")  # some of its files are
    assert not is_fast(TESTS / "laws" / "test_passes_fx.py")
    assert not is_fast(TESTS / "codegen")


def test_this_one_is_and_may_not_export(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("fast") is not None
    with pytest.raises(AssertionError, match=r"a fast test exports with torch; take its file out of FAST"):
        torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
