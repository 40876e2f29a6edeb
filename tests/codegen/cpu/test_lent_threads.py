from __future__ import annotations

import threading
import time

import pytest

from sparsecc.codegen.cpu.lent_threads import LentThreads


def test_a_caller_always_meets_the_same_thread():
    lent = LentThreads("lent")
    assert len({lent.run(threading.current_thread) for _ in range(20)}) == 1


def test_callers_at_once_have_one_each():
    lent, barrier, seen = LentThreads("lent"), threading.Barrier(3, timeout=20), []

    def work():
        barrier.wait()
        seen.append(threading.current_thread())

    callers = [threading.Thread(target=lambda: lent.run(work)) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert len({*seen}) == 3


def test_what_the_work_raises_is_raised_to_the_caller():
    lent = LentThreads("lent")
    for error in (ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            lent.run(lambda error=error: (_ for _ in ()).throw(error))
    assert lent.run(lambda: 1) == 1


def test_the_end_waits_for_work_that_was_left():
    lent, begun, ended = LentThreads("lent"), threading.Event(), []

    def work():
        begun.set()
        time.sleep(0.2)
        ended.append(1)

    threading.Thread(target=lambda: lent.run(work), daemon=True).start()
    assert begun.wait(20)
    lent.finish(20)
    assert ended == [1]
