"""Threads that do others' work."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class LentThreads:
    """As many threads as have ever been needed at once, each doing one caller's work at a time.

    Unlike a ThreadPoolExecutor's, the one that worked last is lent first: a caller who calls again and again always meets the same one,
    with all that it has prepared. A caller that is interrupted leaves at once, and its work goes on without it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[queue.SimpleQueue[_Job]] = []  # by what each begins with
        self._busy: set[_Job] = set()

    def run(self, work: Callable[[], T]) -> T:
        """work() in one of the threads; what it raises is raised here."""
        try:
            begin = self._idle.pop()
        except IndexError:
            begin = self._start()
        job = _Job(work)
        begin.put(job)
        job.done.acquire()
        if job.error is None:
            return cast(T, job.result)
        try:
            raise job.error
        finally:
            del job  # whose error's traceback would hold it

    def finish(self, patience_s: float) -> None:
        """Wait for work that its callers have left."""
        give_up = time.monotonic() + patience_s
        while self._busy and time.monotonic() < give_up:
            time.sleep(0.01)

    def _start(self) -> queue.SimpleQueue[_Job]:
        begin: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._serve, args=(begin,), name=self._name, daemon=True).start()
        return begin

    def _serve(self, begin: queue.SimpleQueue[_Job]) -> None:
        while True:
            job = begin.get()
            self._busy.add(job)
            job.do()
            self._busy.discard(job)
            self._idle.append(begin)
            job.done.release()
            del job  # the caller's arrays are the caller's


class _Job:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.done = threading.Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def do(self) -> None:
        assert self.work is not None
        try:
            self.result = self.work()
        except BaseException as error:  # noqa: BLE001  # for the caller
            self.error = error
        self.work = None
