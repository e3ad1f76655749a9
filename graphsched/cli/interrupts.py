"""Ctrl-C within 50 ms: the main thread is inside compiled code and runs no signal handler, so a watcher acts."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from graphsched.session.session import Session

INTERRUPTED: Final = 130  # the exit code
PATIENCE: Final = 0.025  # seconds that the main thread has to react before the watcher ends the process
_AGAIN: Final = 0.004  # seconds between calls of abort, which generate() forgets when it begins
_LAST_WORDS: Final = 0.1  # seconds for them, as nobody may be reading


class Interrupts:
    """While entered, Ctrl-C ends the process, with `last_words`; inside `aborting` it ends a session's run only.

    Raising KeyboardInterrupt instead would not do: one that comes in a callback from compiled code is lost.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[], None] = lambda: None
        self._session: Session | None = None
        self._is_patient = self._types = self._heard = self._leaving = False
        self._reacted, self._lock, self._saying = threading.Event(), threading.RLock(), threading.Lock()

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handler_before = signal.signal(signal.SIGINT, self._in_main_thread)
        self._watcher = threading.Thread(target=self._watch, name="graphsched-ctrl-c", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._handler_before)
        signal.set_wakeup_fd(self._fd_before)
        self._writer.close()
        self._watcher.join(1)
        self._reader.close()

    @contextmanager
    def aborting(self, session: "Session", *, is_patient: bool = False) -> Iterator[None]:
        """Ctrl-C aborts this session; `is_patient`: only a second one ends a process that does not react."""
        self._is_patient, self._heard, self._session = is_patient, False, session
        try:
            yield
        finally:
            self._session = None
            if self._heard:
                self._react()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Ctrl-C raises KeyboardInterrupt: for reading what somebody types, which leaves the terminal in order."""
        self._types = True
        try:
            yield
        finally:
            self._types = False

    def check(self) -> None:
        """Raises Aborted after Ctrl-C, for work in Python that abort() does not reach."""
        if self._session is not None and self._heard:
            from graphsched.session.session import Aborted

            raise Aborted

    def finish(self) -> None:
        """Says the last words, which are said once, whether the main thread or the watcher comes first."""
        with self._saying:
            words, self.last_words = self.last_words, lambda: None
            words()

    def _in_main_thread(self, signum: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._types:
            self._react()
            raise KeyboardInterrupt

    def _react(self) -> None:
        with self._lock:
            self._reacted.set()
        if self._leaving:
            time.sleep(60)  # the watcher is ending the process

    def _watch(self) -> None:
        while data := self._reader.recv(64):
            if signal.SIGINT in data:
                self._wait_for_reaction()

    def _wait_for_reaction(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self._reacted.is_set():
            is_late, again = time.monotonic() > end, self._came_again()
            if session := self._session:
                session.abort()
                if again or (is_late and not self._is_patient):
                    self._leave()
            elif not self._types:
                self._leave()
            elif is_late and hasattr(signal, "pthread_kill"):
                # the signal came just before the main thread began to wait for a key, and did not wake it
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            self._reacted.wait(_AGAIN)
        self._came_again()  # or the same Ctrl-C would count twice
        self._reacted.clear()

    def _came_again(self) -> bool:
        self._reader.setblocking(False)
        try:
            return signal.SIGINT in self._reader.recv(64)
        except OSError:
            return False
        finally:
            self._reader.setblocking(True)

    def _leave(self) -> None:
        with self._lock:
            if self._reacted.is_set():
                return
            self._leaving = True
        words = threading.Thread(target=self.finish, daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        os._exit(INTERRUPTED)
