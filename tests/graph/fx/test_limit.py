"""A limit on a thread's computing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

import pytest

from sparsecc.graph.fx.limit import TookTooLong, time_limit


def _never_ends() -> None:
    while True:
        with contextlib.suppress(Exception):  # what is raised here has to get past it
            sum(range(100))


def test_it_ends_what_does_not_end() -> None:
    for _ in range(2):
        with pytest.raises(TookTooLong), time_limit(0.05):
            _never_ends()
    assert not [thread for thread in threading.enumerate() if thread.name == "sparsecc-time-limit"]


def test_what_is_in_time_is_let_be_and_its_errors_come_out() -> None:
    with time_limit(60):
        done = sum(range(100))
    assert done == 4950
    with pytest.raises(KeyError), time_limit(60):
        raise KeyError("mine")


def test_waiting_is_no_computing() -> None:
    with time_limit(0.2):
        assert not threading.Event().wait(0.6)


@pytest.mark.parametrize("seconds", [60, 0.01])
def test_functions_can_be_traced_afterwards(seconds: float) -> None:
    """In another process: CPython 3.11 that is asked to take back an exception never gets into a traced function again."""
    code = f"""
import sys, time
from sparsecc.graph.fx.limit import TookTooLong, time_limit
try:
    with time_limit({seconds}):
        end = time.process_time() + (1 if {seconds} < 1 else 0)
        while time.process_time() < end:
            pass
except TookTooLong:
    print("over")
sys.settrace(lambda *_: None)
print(max([2, 1], key=lambda x: x))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == (["over", "2"] if seconds < 1 else ["2"])
