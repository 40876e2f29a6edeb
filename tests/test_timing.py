"""No clock is trusted here: a fake one advances by what each callable says it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

import pytest

from sparsecc import timing
from sparsecc.timing import Spread, Timing, interleave, settled, speedup


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def takes(self, name: str, seconds: Iterator[float] | float) -> Callable[[], None]:
        times = seconds if isinstance(seconds, Iterator) else iter(lambda: seconds, None)

        def call() -> None:
            self.calls.append(name)
            self.now += next(times)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_times_each_callable_and_compares_them(clock: FakeClock) -> None:
    result = interleave({"dense": clock.takes("dense", 0.03), "sparse": clock.takes("sparse", 0.01)}, rounds=5, seconds=60)
    assert result["dense"].spread_ms.median == pytest.approx(30)
    assert result["dense"].to_dict() == {"name": "dense", "rounds": 5, "ms": {k: pytest.approx(30) for k in ("median", "p10", "p90")}}
    assert speedup(result["sparse"], over=result["dense"]).median == pytest.approx(3)


def test_order_rotates_from_round_to_round(clock: FakeClock) -> None:
    interleave({n: clock.takes(n, 0.01) for n in "ABC"}, rounds=3, seconds=60, settle=0, burst=1)
    assert "".join(clock.calls) == "ABCBCACAB"


def test_settling_calls_are_not_timed(clock: FakeClock) -> None:
    cold_then_warm = (1.0 if i % 4 == 0 else 0.001 for i in count())
    result = interleave({"a": clock.takes("a", cold_then_warm)}, rounds=3, seconds=60, settle=1, burst=3)
    assert result["a"].spread_ms.p90 == pytest.approx(1)


def test_one_hiccup_in_a_burst_does_not_count(clock: FakeClock) -> None:
    hiccup = (9.0 if i == 2 else 0.001 for i in count())
    result = interleave({"a": clock.takes("a", hiccup)}, rounds=3, seconds=60, settle=0, burst=3)
    assert max(result["a"].seconds) == pytest.approx(0.001)


def test_a_common_slowdown_leaves_the_ratio_alone() -> None:
    fast, slow = Timing("fast", (1, 2, 4, 8)), Timing("slow", (2, 4, 8, 16))
    assert speedup(fast, over=slow) == Spread(2, 2, 2)


def test_stops_when_the_time_is_up_but_not_before_three_rounds(clock: FakeClock) -> None:
    shares: list[float] = []
    assert len(interleave({"a": clock.takes("a", 1.0)}, seconds=20, rounds=100, settle=0, burst=1)["a"].seconds) == 20
    assert len(interleave({"a": clock.takes("a", 1.0)}, seconds=0.1, settle=0, burst=1, progress=shares.append)["a"].seconds) == 3
    assert shares == [1.0, 1.0, 1.0]


def test_an_error_says_whose_it_was() -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel") as caught:
        interleave({"openvino": broken})
    assert caught.value.__notes__ == ["while timing 'openvino'"]


def test_refuses_nothing_and_strangers() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        interleave({})
    with pytest.raises(ValueError, match="not timed in the same run"):
        speedup(Timing("a", (1.0,)), over=Timing("b", (1.0, 2.0)))


def test_settled_takes_two_comparisons_that_are_alike(clock: FakeClock) -> None:
    disturbed = chain(repeat(0.05, 4 * 10), repeat(0.01))  # the first ten rounds
    assert settled(clock.takes("fast", disturbed), clock.takes("slow", 0.02), seconds=60, rounds=20) == pytest.approx(2.0)
    assert clock.calls.count("fast") == 3 * 4 * 10


def test_settled_counts_the_rounds_that_nothing_disturbs(clock: FakeClock) -> None:
    often = (0.01 if call // 4 % 3 == 0 else 0.04 for call in count())
    assert settled(clock.takes("fast", often), clock.takes("slow", 0.02), seconds=60, rounds=60) == pytest.approx(2.0)
    assert clock.calls.count("fast") == 2 * 4 * 30
