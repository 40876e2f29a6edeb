"""Answers in this process; timing is made up where it matters. What crashes or hangs is in test_worker.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from sparsecc.codegen.tuning import measure
from sparsecc.codegen.tuning.measure import Request, Way, answer
from sparsecc.codegen.tuning.text import text
from sparsecc.timing import Timing
from tests.codegen.tuning.tasks import HERE, SMALL


@pytest.mark.parametrize(("ratio", "rounds"), [(2.0, 3), (1.2, 9), (1.0, 24), (0.5, 24)])
def test_near_the_reference_it_is_timed_longer(monkeypatch: pytest.MonkeyPatch, ratio: float, rounds: int) -> None:
    def fake(calls: Mapping[str, Any], rounds: int) -> dict[str, Timing]:
        return {name: Timing(name, (taken,) * rounds) for name, taken in zip(calls, (ratio, 1.0), strict=True)}

    monkeypatch.setattr(measure, "interleave", fake)
    first, second, *_ = SMALL.space(HERE)
    reply = answer(Request("cpu", text(HERE), None, Way(SMALL, text(second)), Way(SMALL, text(first)), 60))
    assert (reply.seconds, reply.reference_seconds, reply.failure) == ((ratio,) * rounds, (1.0,) * rounds, None)


def test_alone_it_is_timed_alone() -> None:
    reply = answer(Request("cpu", text(HERE), None, Way(SMALL, text(SMALL.space(HERE)[0])), None, 60))
    assert len(reply.seconds) == 12 and reply.reference_seconds == ()


def test_what_cannot_be_built_says_why() -> None:
    wrong = replace(SMALL.space(HERE)[0], panel=7)  # no divisor of the depth
    failure = answer(Request("cpu", text(HERE), None, Way(SMALL, text(wrong)), None, 60)).failure
    assert failure is not None and "reshape" in failure
