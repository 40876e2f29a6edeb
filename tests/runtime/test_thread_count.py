from __future__ import annotations

import threading

import pytest

from sparsecc.runtime import thread_count
from sparsecc.runtime.thread_count import ThreadCount


@pytest.fixture
def clock(monkeypatch):
    """Seconds of a call by how many threads it has; calls take them by this clock."""
    now, seconds, used = [0.0], {}, []

    def run(count, work):
        used.append(count)
        now[0] += seconds[count]
        return work()

    monkeypatch.setattr(thread_count.threads, "run", run)
    monkeypatch.setattr(thread_count.time, "perf_counter", lambda: now[0])
    return seconds, used


@pytest.mark.parametrize(
    ("on_all", "alone", "chosen"),
    [
        (100e-6, 20e-6, 1),  # little work, which waits for workers longer than it takes
        (100e-6, 150e-6, 4),
        (20e-3, 1e-3, 4),  # much work; alone is not tried
    ],
)
def test_the_faster_way_is_kept(clock, on_all, alone, chosen):
    seconds, used = clock
    seconds.update({4: on_all, 1: alone})
    count = ThreadCount(4)
    assert [count.run(lambda n=n: n) for n in range(30)] == list(range(30))
    assert count.chosen == chosen and set(used[16:]) == {chosen}
    assert (1 in used) == (on_all < 1e-3)


def test_one_thread_has_nothing_to_choose(clock):
    seconds, used = clock
    seconds[1] = 1e-6
    assert ThreadCount(1).chosen == 1 and ThreadCount(1).run(lambda: "done") == "done" and used == [1]


def test_what_is_raised_is_no_measurement(clock):
    seconds, _ = clock
    seconds.update({2: 1e-6, 1: 1e-6})
    count = ThreadCount(2)
    for _ in range(40):
        with pytest.raises(ValueError, match="wrong"):
            count.run(lambda: (_ for _ in ()).throw(ValueError("wrong")))
    assert count.chosen is None


def test_callers_side_by_side():
    count, results = ThreadCount(2), []
    callers = [threading.Thread(target=lambda: results.extend(count.run(lambda n=n: n) for n in range(40))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(results) == sorted(4 * list(range(40))) and count.chosen in (1, 2)
