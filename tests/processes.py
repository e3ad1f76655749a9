"""Child processes of tests: ended and their pipes closed, whatever happens."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is killed at the end of the block if it still runs."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def on_terminal(command: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A process on a terminal of its own: its number and the terminal; killed at the end if it is not done.

    The block waits for it if it wants its exit code.
    """
    import pty  # not on Windows

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], list(command))
    try:
        yield pid, terminal
    finally:
        os.close(terminal)
        with suppress(ProcessLookupError, ChildProcessError):  # it was waited for
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
