"""The thread that steps the engine: whoever wants something of it hands over a call, which runs between two steps."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter_ns
from typing import TypeVar

from graphsched.serve.scheduler import Scheduler
from graphsched.session.rows import Aborted

T = TypeVar("T")


class Worker:
    """Runs a scheduler's steps in a thread of its own, as long as there is work. send: called behind each step."""

    def __init__(self, scheduler: Scheduler, send: Callable[[], None]) -> None:
        self._scheduler, self._send = scheduler, send
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ends = False

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Has the thread call a function before its next step; it is called at once when the thread has ended."""
        future: Future[T] = Future()
        with self._wake:
            if not self._ends:
                self._calls.append(lambda: _resolve(future, function))
                self._wake.notify()
                return future
        _resolve(future, function)
        return future

    def close(self) -> None:
        """Ends the thread, the step in progress early, and makes the calls that are left."""
        with self._wake:
            self._ends = True
            self._wake.notify()
        if self._thread.is_alive():
            self._scheduler.engine.abort()
            self._thread.join()
            self._scheduler.engine.clear_abort()
        while self._calls:
            self._calls.popleft()()

    def _run(self) -> None:
        while self._wait():
            while self._calls:
                self._calls.popleft()()
            try:
                self._scheduler.step()
            except Aborted:
                pass
            except Exception as error:  # whatever it is, the others' requests go on
                self._scheduler.fail_all(error)
            self._send()

    def _wait(self) -> bool:
        """Waits for something to do; False at the end."""
        with self._wake:
            if not self._has_work():
                begin = perf_counter_ns()
                self._wake.wait_for(self._has_work)
                self._scheduler.engine.recorder.since("idle", begin)
            return not self._ends

    def _has_work(self) -> bool:
        return self._ends or bool(self._calls) or self._scheduler.has_work


def _resolve(future: Future[T], function: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
