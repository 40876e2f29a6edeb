from __future__ import annotations

import threading
import time

import pytest

from sparsecc.codegen.cpu.cpus import Cpus


def in_threads(call, arguments):
    callers = [threading.Thread(target=call, args=(argument,)) for argument in arguments]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)


def test_callers_share_the_cpus():
    cpus, running, most = Cpus(3), [], []

    def call(count):
        for _ in range(20):
            with cpus.taken(count):
                running.append(count)
                most.append(sum(running))
                running.remove(count)

    in_threads(call, (1, 2, 2, 3))
    assert len(most) == 80
    assert max(most) <= 3


def test_a_caller_may_want_more_cpus_than_there_are():
    with Cpus(2).taken(64):
        pass


def test_an_interrupt_anywhere_loses_no_cpus(monkeypatch):
    """As Ctrl-C does it: while one waits for CPUs that another holds, and in the work itself."""
    cpus = Cpus(2)

    def interrupted():
        raise KeyboardInterrupt

    with cpus.taken(1):
        monkeypatch.setattr(cpus, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt), cpus.taken(2):
            pass
        monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt), cpus.taken(2):
        raise KeyboardInterrupt
    in_threads(lambda count: cpus.taken(count).__enter__(), (2,))
    assert not cpus._held  # the last one's went with it, though it never gave them back


def test_calls_are_stopped_and_go_on():
    cpus, order = Cpus(2), []

    def call(name):
        with cpus.taken(1):
            order.append(name)
            time.sleep(0.2)
            order.append(f"{name} has ended")

    first, second = (threading.Thread(target=call, args=(name,)) for name in ("first", "second"))
    first.start()
    while not order:
        time.sleep(0.01)
    assert cpus.stop(20)
    second.start()
    second.join(0.1)
    order.append("stopped")
    cpus.go_on()
    for caller in (first, second):
        caller.join(20)
    assert order == ["first", "first has ended", "stopped", "second", "second has ended"]


def test_stopping_is_given_up():
    cpus, results = Cpus(1), []
    with cpus.taken(1):
        assert cpus.stop(0.05)  # without waiting for what takes longer
        in_threads(lambda patience: results.append(cpus.stop(patience)), (0.05,))
        cpus.go_on()
    assert results == [False]  # while somebody else has stopped them
