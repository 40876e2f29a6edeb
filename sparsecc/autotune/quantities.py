"""Numbers with units as goals write them: "12ms", "40MB", "1.02x"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from sparsecc.errors import RecipeError
from sparsecc.options import shown

MICROSECONDS: Mapping[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0}
BYTES: Mapping[str, float] = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
RATIO = "x"  # of the dense model's own value
_SAME = {"µs": "us", "μs": "us", "KB": "kB"}  # other spellings; the first is the micro sign, the second the Greek letter
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.) *([^\W\d]*)")
_DIGITS = 3  # that a rounded number has


@dataclass(frozen=True)
class Quantity:
    """A number as it was written. factor: what one `unit` is in the base unit, µs or bytes; 1 where there is none."""

    number: float
    unit: str = ""
    factor: float = 1.0

    @property
    def amount(self) -> float:
        """In the base unit."""
        return self.number * self.factor

    def rounded(self, amount: float, up: bool) -> Quantity:
        """Another amount in the same unit, with three significant digits, rounded up or down but never to the other side of `amount`."""
        exact = Decimal(repr(amount + 0.0)) / Decimal(repr(self.factor))  # -0.0 becomes 0.0, which has no sign to be written
        last = exact.adjusted() - _DIGITS + 1 if exact else 0
        step = Decimal(1).scaleb(last)
        number = exact.quantize(step, rounding=ROUND_CEILING if up else ROUND_FLOOR)
        found = Quantity(float(number), self.unit, self.factor)
        if (found.amount < amount) if up else (found.amount > amount):  # by the last bit of a float
            found = Quantity(float(number + step if up else number - step), self.unit, self.factor)
        return found

    def __str__(self) -> str:
        return f"{repr(self.number).removesuffix('.0')}{self.unit}"


def quantity(text: str, units: Mapping[str, float], place: str, needed: bool = True) -> Quantity:
    """A number with one of these units. needed: a number alone is no answer.  place: what the error begins with.

    Raises RecipeError for what is no number, is negative or not finite, and for a unit that is unknown or missing.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or not math.isfinite(float(match[1])):
        example = f"12{next(iter(units))}" if needed else "0.99"
        raise RecipeError(f"{place}: {shown(text)} is no number that is finite and not negative; write it as {example}")
    unit = _SAME.get(match[2], match[2])
    if unit in units:
        return Quantity(float(match[1]), unit, units[unit])
    if unit or needed:
        wrong = f"no unit {unit!r}" if unit else f"{shown(text)} has no unit"
        raise RecipeError(f"{place}: {wrong}; {_there_are(units)}")
    return Quantity(float(match[1]))


def _there_are(units: Mapping[str, float]) -> str:
    return f"there are: {', '.join(units)}" if units else "it takes a number alone"
