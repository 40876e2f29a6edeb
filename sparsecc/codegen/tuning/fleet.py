"""Measuring on the servers that TVM's tracker has for a key: one measurement at a time on each, those of lost servers done again.

A server is lost when its connection breaks, when it does not answer in time, and when its process for measuring does not start or is
killed. From the first measurement on each free server is taken as soon as the tracker has it, also one that was lost and comes back, and is
kept until the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from sparsecc.codegen.target import Target
from sparsecc.codegen.tuning.measurer import Job, Measurer
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.remote import Came, Done, Event, Lost, Refused, Remote
from sparsecc.codegen.tuning.session import Hello
from sparsecc.codegen.tuning.tracker import Address, Tracker, hand_back
from sparsecc.codegen.tuning.worker import LIMIT_S
from sparsecc.errors import SparseccError, UserError

Notice = Callable[[str], None]
PATIENCE_S = 60.0  # without any server
_SLACK_S = 30.0  # for what a measurement takes besides: a new process, sending the weight
_SHUNNED_S = 60.0  # after a refusal, trouble, or a connection that could not be made
_TROUBLES = 3  # servers on which the same candidate may end the process that measures
_TELL_S = 3.0  # after which it is said that there is no server; to connect takes a second
_LOOK_S = 0.2
_RETRY_S = 2.0
_CLOSE_S = 2.0  # to wait for servers that measure nothing any more


class Fleet(Measurer):
    """notice: told when servers come and go. Raises UserError when there is no tracker."""

    def __init__(
        self,
        target: Target,
        tracker: Address,
        key: str,
        notice: Notice = lambda _: None,
        *,
        limit_s: float = LIMIT_S,
        slack_s: float = _SLACK_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._target, self._tracker, self._key, self._notice = target, tracker, key, notice
        self._limit_s, self._slack_s, self._patience_s = limit_s, slack_s, patience_s
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._connected: list[Remote] = []  # whatever has become of them
        self._idle: list[Remote] = []
        self._busy: dict[Remote, tuple[Job, float]] = {}  # with the time at which it is lost
        self._abandoned: set[Remote] = set()  # that did not answer in time, and may yet
        self._shunned: dict[Address, float] = {}  # until when
        self._troubles: Counter[Job] = Counter()
        self._told = False  # that there is no server
        self._stopped = threading.Event()
        self._found: Tracker | None = Tracker(tracker)
        self._hello = Hello.of(target, limit_s)
        self._alone_since = time.monotonic()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the servers go. What is under way is not waited for."""
        self._stopped.set()
        if self._found is not None:
            self._found.close()
        for server in list(self._connected):
            server.close()
        until = time.monotonic() + _CLOSE_S
        for server in self._idle:
            server.wait(max(0.0, until - time.monotonic()))

    @property
    def room(self) -> int:
        return max(1, len(self._idle) + len(self._busy))

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        if self._found is not None:
            threading.Thread(target=self._find, args=(self._found,), daemon=True, name="sparsecc fleet").start()
            self._found, self._alone_since = None, time.monotonic()
        self._spread()

    def finished(self) -> tuple[Job, Outcome] | None:
        """Raises UserError when there has been no server for `patience_s`."""
        while True:
            before = self.room
            if self._events.empty():  # what was answered in time counts, however late it is read
                self._look()
            try:
                event = self._events.get(timeout=_LOOK_S)
            except Empty:
                continue
            if (done := self._handled(event)) is not None:
                return done
            self._spread()
            if self.room > before and not self._waiting:
                return None

    def _handled(self, event: Event) -> tuple[Job, Outcome] | None:
        server = event.server
        match event:
            case Came():
                self._idle.append(server)
                self._told = False
                self._notice(f"{server.name}: measures, too" if self.room > 1 else f"{server.name}: measures")
            case Refused():
                self._shunned[server.address] = time.monotonic() + _SHUNNED_S
                self._notice(f"{server.name}: is not taken: it {event.reason}")
            case Lost():
                self._lost(server, event)
            case Done() if server in self._abandoned:  # its work was given to another
                self._abandoned.remove(server)
                self._idle.append(server)
                self._notice(f"{server.name}: answers again")
            case Done():
                del self._busy[server]
                self._idle.append(server)
                self._spread()
                return event.job, event.job.outcome(event.reply)
        return None

    def _lost(self, server: Remote, event: Lost) -> None:
        came = server in self._idle or server in self._busy or server in self._abandoned
        if event.trouble or not came:
            self._shunned[server.address] = time.monotonic() + _SHUNNED_S
        if server in self._idle:
            self._idle.remove(server)
            self._alone_since = time.monotonic()
        self._abandoned.discard(server)
        job = self._taken_from(server)
        again = "; what it measured is done again" if job else ""
        self._notice(f"{server.name}: is lost ({event.reason}){again}")
        if job is not None and event.trouble:
            self._troubles[job] += 1
            if self._troubles[job] == _TROUBLES:
                raise SparseccError(f"{_TROUBLES} servers could not measure {job.task} with {job.knobs}; the last one: {event.reason}")

    def _taken_from(self, server: Remote) -> Job | None:
        """What is under way there comes first in the line."""
        job, _ = self._busy.pop(server, (None, 0.0))
        if job is not None:
            self._waiting.appendleft(job)
            self._alone_since = time.monotonic()
        return job

    def _spread(self) -> None:
        while self._waiting and self._idle:
            server, job = self._idle.pop(0), self._waiting.popleft()
            self._busy[server] = job, time.monotonic() + self._limit_s + self._slack_s
            server.measure(job)

    def _look(self) -> None:
        """At the time: who should have answered, and for how long there has been nobody."""
        now = time.monotonic()
        for server in [server for server, (_, until) in self._busy.items() if now > until]:
            self._abandoned.add(server)
            self._taken_from(server)
            self._notice(f"{server.name}: does not answer; what it measured is done again")
        self._spread()
        if self._idle or self._busy:
            return
        where = f"no server with key {self._key!r} at tracker {self._tracker}"
        if now - self._alone_since > self._patience_s:
            raise UserError(f"{where} for {self._patience_s:g} s; what was measured is kept, and the same command goes on from there")
        if not self._told and now - self._alone_since > min(_TELL_S, self._patience_s / 2):
            self._told = True
            self._notice(f"{where}; waiting for up to {self._patience_s:g} s")

    def _find(self, tracker: Tracker) -> None:
        """In a thread: take each server that is free, as long as nobody stops it."""
        while not self._stopped.is_set():
            with tracker, suppress(OSError):  # it has gone; the servers that we have stay
                while (grant := tracker.request(self._key, self._stopped.is_set)) is not None:
                    if self._shunned.get(grant.address, 0.0) > time.monotonic():
                        hand_back(grant)
                        self._stopped.wait(_RETRY_S)  # others first: it would come back at once
                        continue
                    self._connected.append(server := Remote(grant, self._target, self._hello, self._events.put))
                    if self._stopped.is_set():  # `close` may not have seen it
                        server.close()
            while not self._stopped.wait(_RETRY_S):
                try:
                    tracker = Tracker(self._tracker)
                    break
                except UserError:
                    continue
