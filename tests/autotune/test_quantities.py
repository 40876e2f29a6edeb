from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.autotune.quantities import BYTES, MICROSECONDS, Quantity, quantity


@given(st.just(0.0) | st.floats(1e-9, 1e12), st.sampled_from([*MICROSECONDS.items(), *BYTES.items()]), st.booleans())
def test_rounding_goes_one_way_and_not_far(amount: float, unit: tuple[str, float], up: bool) -> None:
    found = Quantity(1.0, *unit).rounded(amount, up)
    assert found.amount >= amount if up else found.amount <= amount
    assert found.amount == pytest.approx(amount, rel=0.011)
    assert quantity(str(found), {unit[0]: unit[1]}, "here") == found


def test_three_digits() -> None:
    assert str(Quantity(12, "ms", 1e3).rounded(13001.7, up=True)) == "13.1ms"
    assert str(Quantity(12, "ms", 1e3).rounded(13000, up=True)) == "13ms"
    assert str(Quantity(0.99).rounded(0.98765, up=False)) == "0.987"
    assert str(Quantity(40, "MB", 1e6).rounded(41_234_567, up=True)) == "41.3MB"
    assert str(Quantity(1, "x").rounded(12345, up=True)) == "12400x"
    assert Quantity(1).rounded(0.0, up=False).amount == 0
    assert str(Quantity(0.99).rounded(-0.0, up=False)) == "0"
