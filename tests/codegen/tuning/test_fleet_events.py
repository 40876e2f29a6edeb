"""What the fleet does with what its servers report; there is neither tracker nor server here."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import pytest

from sparsecc.codegen.tuning import fleet as module
from sparsecc.codegen.tuning.fleet import Fleet
from sparsecc.codegen.tuning.measure import Reply
from sparsecc.codegen.tuning.measurer import Job, Reference
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.remote import Came, Done, Lost, Refused
from sparsecc.codegen.tuning.tracker import Address, Grant
from sparsecc.errors import SparseccError, UserError
from sparsecc.timing import Spread
from tests.codegen.tuning.tasks import HERE, SMALL

FIRST, SECOND, THIRD = (Job(SMALL, some) for some in SMALL.space(HERE)[:3])
TRACKER = Address("here", 9190)


class FakeTracker:
    def __init__(self, address: Address) -> None:
        pass

    def __enter__(self) -> FakeTracker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def request(self, key: str, stopped: Any) -> Any:
        return None


class FakeServer:
    """Notes what it is to measure."""

    def __init__(self, port: int) -> None:
        self.address, self.name, self.asked, self.closed = Address("there", port), f"s{port}", [], False

    def measure(self, job: Job) -> None:
        self.asked.append(job)

    def close(self) -> None:
        self.closed = True

    def wait(self, seconds: float) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "Tracker", FakeTracker)
    told: list[str] = []
    with Fleet(HERE, TRACKER, "zen4", told.append) as fleet:
        yield fleet, told


def tell(fleet: Fleet, *events: Any) -> None:
    for event in events:
        fleet._events.put(event)


def servers(count: int) -> list[Any]:
    return [FakeServer(port) for port in range(1, count + 1)]


def test_one_at_a_time_on_each(made) -> None:
    fleet, told = made
    a, b = servers(2)
    fleet.submit(FIRST)
    tell(fleet, Came(a), Came(b))
    assert fleet.finished() is None and fleet.room == 2, "b has come and waits for work"
    fleet.submit(SECOND)
    fleet.submit(THIRD)
    assert (a.asked, b.asked) == ([FIRST], [SECOND])
    tell(fleet, Done(b, SECOND, Reply((2e-6,) * 3)))
    assert fleet.finished() == (SECOND, Outcome(Spread(2.0, 2.0, 2.0)))
    assert b.asked == [SECOND, THIRD]
    assert told == ["s1: measures", "s2: measures, too"]


def test_times_are_those_of_the_reference_times_the_ratio() -> None:
    job = Job(SMALL, FIRST.knobs, None, Reference(SMALL, SECOND.knobs, 100.0))
    outcome = job.outcome(Reply((2e-6, 2e-6, 2e-6), (1e-6, 1e-6, 1e-6)))
    assert outcome.us is not None and outcome.us.median == pytest.approx(200.0)
    assert job.outcome(Reply(failure="crashed")) == Outcome(None, "crashed")


def test_what_a_lost_server_had_comes_first(made) -> None:
    fleet, told = made
    a, b = servers(2)
    fleet._handled(Came(a))
    fleet._handled(Came(b))
    for job in (FIRST, SECOND, THIRD):
        fleet.submit(job)
    tell(fleet, Lost(a, "connection reset"), Done(b, SECOND, Reply((1e-6,) * 3)))
    assert fleet.finished()[0] == SECOND
    assert b.asked == [SECOND, FIRST], "before the third"
    assert fleet.room == 1
    assert told[-1] == "s1: is lost (connection reset); what it measured is done again"


def test_an_idle_server_that_goes_gets_nothing(made) -> None:
    fleet, told = made
    a, b = servers(2)
    fleet._handled(Came(a))
    fleet._handled(Came(b))
    fleet._handled(Lost(a, "connection reset"))
    fleet.submit(FIRST)
    assert (a.asked, b.asked) == ([], [FIRST])
    assert told[-1] == "s1: is lost (connection reset)"


def test_a_candidate_that_ends_the_process_everywhere(made) -> None:
    """As local tuning does with the first one."""
    fleet, _ = made
    fleet.submit(FIRST)
    for server in servers(3):
        tell(fleet, Came(server), Lost(server, "was ended by SIGKILL", trouble=True))
    with pytest.raises(SparseccError, match=r"3 servers could not measure dense_matmul .*; the last one: was ended by SIGKILL"):
        fleet.finished()
    assert set(fleet._shunned) == {Address("there", port) for port in (1, 2, 3)}


def test_a_reply_that_comes_too_late_is_not_counted_twice(made, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, told = made
    a, b = servers(2)
    fleet._handled(Came(a))
    fleet.submit(FIRST)
    fleet._busy[a] = FIRST, 0.0
    fleet._look()
    assert told[-1] == "s1: does not answer; what it measured is done again"
    tell(fleet, Came(b), Done(a, FIRST, Reply((9e-6,) * 3)), Done(b, FIRST, Reply((1e-6,) * 3)))
    assert fleet.finished() is None, "a is back"
    job, outcome = fleet.finished()
    assert job == FIRST and outcome.us is not None and outcome.us.median == pytest.approx(1.0)
    assert fleet.room == 2


def test_servers_that_cannot_be_reached_do_not_put_off_the_end(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those behind NAT, which the tracker offers again and again."""
    fleet, told = made
    fleet._patience_s = 0.3
    [a] = servers(1)
    fleet.submit(FIRST)
    alone_since = fleet._alone_since
    tell(fleet, Lost(a, "Connect to there:1 failed"))
    with pytest.raises(UserError, match=r"no server with key 'zen4' at tracker here:9190 for 0.3 s"):
        fleet.finished()
    assert fleet._alone_since == alone_since
    assert told[0] == "s1: is lost (Connect to there:1 failed)"
    assert a.address in fleet._shunned


def test_nobody_is_looked_for_before_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    class Asked(FakeTracker):
        def request(self, key: str, stopped: Any) -> None:
            asked.set()

    monkeypatch.setattr(module, "Tracker", Asked)
    with Fleet(HERE, TRACKER, "zen4") as fleet:
        assert not asked.wait(0.1)
        fleet.submit(FIRST)
        assert asked.wait(10)


def test_a_shunned_server_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = Grant(Address("there", 1), "zen4:0.1")
    back: SimpleQueue[Grant] = SimpleQueue()

    class Granting(FakeTracker):
        def request(self, key: str, stopped: Any) -> Grant:
            return unwanted

    monkeypatch.setattr(module, "Tracker", Granting)
    monkeypatch.setattr(module, "hand_back", back.put)
    with Fleet(HERE, TRACKER, "zen4") as fleet:
        fleet._shunned[unwanted.address] = float("inf")
        fleet.submit(FIRST)
        assert back.get(timeout=10) == unwanted
        assert back.empty(), "others come first"


def test_refused_ones_are_named_and_not_asked_again_at_once(made) -> None:
    fleet, told = made
    a, b = servers(2)
    fleet.submit(FIRST)
    tell(fleet, Refused(a, "lends 1 threads, 2 are to be measured"), Came(b), Done(b, FIRST, Reply((1e-6,) * 3)))
    assert fleet.finished()[0] == FIRST
    assert told[0] == "s1: is not taken: it lends 1 threads, 2 are to be measured"
    assert a.address in fleet._shunned and a.asked == []
