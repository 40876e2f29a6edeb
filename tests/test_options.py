from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sparsecc.errors import RecipeError
from sparsecc.options import build, kind


@dataclass(frozen=True)
class Cake:
    layers: int
    names: tuple[str, ...] = ()
    sugar: float = 0.5
    candles: tuple[int, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise RecipeError(f"layers: {self.layers} is less than 1")


def test_fields_are_read_strictly_and_lists_become_tuples() -> None:
    assert build(Cake, {"layers": 2, "names": ["a"], "sugar": 1}, "r") == Cake(2, ("a",), 1.0)


ITSELF: list = []
ITSELF.append(ITSELF)
EXPLODING: list = ["x"]
for _ in range(30):
    EXPLODING = [EXPLODING, EXPLODING]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "r.layers: missing"),
        ({"layer": 2}, "r.layer: no such field; did you mean 'layers'?"),
        ({"layers": 2.5}, "r.layers: expected an? ?integer, not 2.5"),
        ({"layers": 0}, "r.layers: 0 is less than 1"),
        ({"layers": 1, "names": "a"}, r"r.names: expected a list, as \['a'\], not text"),
        ({"layers": 1, "names": ITSELF}, "r.names: nested too deeply for a recipe, or in itself"),
        ({"layers": 1, "names": EXPLODING}, "r.names: stands for more than 100000 entries"),
        ({"layers": 10**6000}, "r.layers: a number of many digits is larger than anything that this could mean"),
        ({"layers": 1, "candles": [2**63]}, "r.candles: .* is larger than anything"),
        ({"l" * 100_000: 1}, r"r.l{57}\.\.\.: no such field"),
        ({"layers": 1, "sugar": float("inf")}, "r.sugar: expected a finite number, not inf"),
    ],
)
def test_mistakes_are_placed(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        build(Cake, options, "r")


def test_values_in_words() -> None:
    assert [kind(value) for value in (None, "x", [1], True, 3, {}, {"a": 1})] == [
        "nothing",
        "text",
        "a list",
        "true/false",
        "a number",
        "an empty mapping",
        "a mapping with the keys ['a']",
    ]
