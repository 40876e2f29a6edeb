import os
import signal
import subprocess
import sys
import threading

import pytest

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import threads


def test_each_caller_sets_its_own_pool():
    seen = []

    def work(count):
        threads.use_threads(count)
        seen.append(tvm_api.get_global_func("runtime.NumThreads")())

    for count in (1, threads.available()):
        caller = threading.Thread(target=work, args=(count,))
        caller.start()
        caller.join()
    assert seen == [1, threads.available()]


def test_cores():
    assert 1 <= threads.physical_cores() <= threads.available()


def test_callers_have_no_workers_of_their_own():
    """Several threads are lent ones, always the same to one caller; a single one is the caller, with a pool that does not grow."""
    ran_in = []

    def work():
        ran_in.append((threading.current_thread(), tvm_api.get_global_func("runtime.NumThreads")()))

    def call():
        caller = threading.current_thread()
        for count in (2, 1, 2):
            threads.run(count, work)
        (first, some), (alone, one), (last, _) = ran_in[-3:]
        assert threads.available() == cpus  # nobody is pinned to some of them
        assert first is last is not caller and some == min(2, cpus)
        assert alone is caller and one == 1
        with pytest.raises(RuntimeError, match="pool has one thread, 2 are wanted"):
            threads.use_threads(2)
        done.append(caller)

    done, cpus = [], threads.available()
    for _ in range(20):
        caller = threading.Thread(target=call)
        caller.start()
        caller.join()
    assert len(done) == 20
    assert len({thread for thread, count in ran_in if thread not in done}) == 1


FORKED = """
import os, signal, sys, threading, time
from sparsecc.codegen import threads
from tests.codegen.cpu.parallel import doubled

def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        work()
        sys.exit(0)  # which deletes the pool of this thread
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def both():
    assert threads.run(2, doubled) and threads.run(1, doubled)

both()
time.sleep(0.2)  # workers fall asleep
child(lambda: None)
child(both)
child(lambda: child(both))
stop = []
busy = threading.Thread(target=lambda: [both() for _ in iter(lambda: not stop, False)])
busy.start()
for _ in range(5):
    child(both)
stop.append(1)
busy.join()
both()
"""


def test_forked_children_compute_and_end():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=100)


def test_who_leaves_a_call_is_not_waited_for():
    """Ctrl-C in a call of several threads, and later calls."""
    entered, go_on = threading.Event(), threading.Event()

    def work():
        entered.set()
        go_on.wait(20)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            threads.run(2, work)
    finally:
        signal.signal(signal.SIGINT, previous)
        go_on.set()
    assert entered.is_set()
    assert threads.run(threads.available(), lambda: 3) == 3
