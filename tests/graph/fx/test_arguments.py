"""From a caller's inputs to arguments; what is refused stands in `tests/laws/test_hosts.py`."""

from __future__ import annotations

import pytest

from sparsecc.errors import InputError
from sparsecc.graph.fx.arguments import evaluated


def test_what_torch_fails_on_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^Net: torch fails on these inputs: index out of range in self$"), evaluated("Net"):
        raise IndexError("index out of range in self\nat the second line")


def test_what_is_no_fault_of_the_inputs_passes_through() -> None:
    with pytest.raises(KeyError), evaluated("Net"):
        raise KeyError("x")
