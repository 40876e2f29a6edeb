"""Which einsums are linear layers, and what it takes to spell one as a matrix product."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearEinsum:
    """einsum(x, W) = unturn(reshape(flatten(turn(x)) · matrix(W))).

    weight: which of the two operands W is.  turn_x: the axes of x, those that stay first.  summed: how many of its axes are summed over.
    turn_weight: the axes of W, those that are summed over first.  outputs: how many of its axes stay.  unturn: the axes of the result.
    """

    weight: int
    turn_x: tuple[int, ...]
    summed: int
    turn_weight: tuple[int, ...]
    outputs: int
    unturn: tuple[int, ...]


def linear(equation: str, ranks: tuple[int, int], weight: int) -> LinearEinsum | None:
    """How an einsum of two operands of these ranks is a linear layer in the stored operand `weight`; None where it is none, as
    where both share an axis that stays (experts)."""
    parsed = _labels(equation, ranks)
    if parsed is None:
        return None
    (*operands, out), x, w = parsed, parsed[1 - weight], parsed[weight]
    summed = [label for label in w if label not in out]
    if any(len(set(labels)) < len(labels) for labels in (*operands, out)) or any(label not in x for label in summed):
        return None
    stays, outputs = [label for label in out if label in x], [label for label in out if label in w]
    apart = not set(stays) & set(outputs) and len(out) == len(stays) + len(outputs) and {*stays, *summed} == {*x}
    if not apart or not (stays and outputs and summed):
        return None
    turned = (*stays, *outputs)
    return LinearEinsum(
        weight=weight,
        turn_x=tuple(x.index(label) for label in (*stays, *summed)),
        summed=len(summed),
        turn_weight=tuple(w.index(label) for label in (*summed, *outputs)),
        outputs=len(outputs),
        unturn=tuple(turned.index(label) for label in out),
    )


def _labels(equation: str, ranks: tuple[int, int]) -> tuple[str, str, str] | None:
    """The labels of both operands and of the result, an ellipsis spelt out; None for an equation of another kind."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    operands = given.split(",")
    if len(operands) != 2:
        return None
    free = "".join(chr(0x100 + i) for i in range(8))  # no letters that an equation may have
    spelt = []
    for labels, rank in zip(operands, ranks, strict=True):
        left = rank - len(labels.replace("...", ""))
        if left < 0 or left > len(free) or ("..." not in labels and left):
            return None
        spelt.append(labels.replace("...", free[len(free) - left :]))
    widest = max(spelt, key=lambda labels: sum(label in free for label in labels))
    ellipsis = "".join(label for label in widest if label in free)
    if not arrow:
        single = sorted(label for label in set(given) - set("...,") if given.count(label) == 1)
        out = "..." + "".join(single)
    return spelt[0], spelt[1], out.replace("...", ellipsis)
