from __future__ import annotations

import pytest

from sparsecc.graph.onnx.optional import require


def test_what_is_there_is_given_and_nothing_else() -> None:
    assert require(0) == 0
    with pytest.raises(AssertionError):
        require(None)
