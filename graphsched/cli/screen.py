"""Messages beside the results: progress, hints and timings, all on stderr."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphsched.session.session import Timings

QUICK: Final = 0.3  # seconds of work that are not worth a line
_ERASE: Final = "\r\x1b[K"


class Screen:
    """Progress in one line that disappears, hints and notes; `quiet` has none of them, `verbose` has details."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, progress: bool = True) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._shows = progress and not quiet and (is_terminal(sys.stderr) or verbose)
        self._what, self._since, self._line = "", 0.0, False
        self._hints: set[str] = set()
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self.on_ready: Callable[[], None] = lambda: None  # called when some work is done

    def say(self, text: str) -> None:
        """A line for everyone but those who want quiet."""
        if not self.quiet:
            self.clear()
            print(text, file=sys.stderr, flush=True)

    def hint(self, text: str) -> None:
        """A line that is said once, however many sessions it is true of."""
        if text not in self._hints:
            self._hints.add(text)
            self.say(text)

    def detail(self, text: str) -> None:
        """A line for -v."""
        if self.verbose:
            self.say(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """Shows how far some work is, once it takes long; on a terminal in place, else only its end."""
        now = time.monotonic()
        if what != self._what or done == 0:
            self._what, self._since = what, now
        text = f"{what} {done}/{total}{' (first run only)' if 'kernel' in what else ''}"
        if done == total:
            if now - self._since > QUICK:
                self._end(text)
            self.clear()
            self.on_ready()
        elif now - self._since > QUICK:
            self._show(text)
        else:
            self.long(text)

    def long(self, what: str) -> None:
        """Shows that some work is going on if nothing else is told in the time that is not worth a line."""
        self._cancel()
        if self._shows and is_terminal(sys.stderr):
            self._timer = threading.Timer(QUICK, self._show, (what,))
            self._timer.daemon = True
            self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self, text: str) -> None:
        """Also called by the timer's thread, which may come late."""
        with self._lock:
            if isinstance(threading.current_thread(), threading.Timer):
                if threading.current_thread() is not self._timer:
                    return
            else:
                self._cancel()
            if self._shows and is_terminal(sys.stderr):
                self._line = True
                print(_ERASE + text, end="", file=sys.stderr, flush=True)

    def _end(self, text: str) -> None:
        """Says the end of long work where no line was shown meanwhile."""
        if self._shows and not is_terminal(sys.stderr):
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the progress line away."""
        with self._lock:
            self._cancel()
            if self._line:
                self._line = False
                print(_ERASE, end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the cursor where the shell expects it, behind a ^C."""
        self.clear()
        if is_terminal(sys.stderr):
            print(file=sys.stderr, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is open and a terminal; None is none."""
    return stream is not None and not stream.closed and stream.isatty()


def rates(timings: "Timings") -> str:
    """Load, compilation if there was any, prompt and generation: milliseconds, tokens, tokens per second."""
    rows = [f"load       {timings.load_ms:10.1f} ms"]
    if timings.compile_ms:
        rows.append(f"compile    {timings.compile_ms:10.1f} ms")
    for name, tokens, ms in (
        ("prompt", timings.prompt_tokens, timings.prompt_ms),
        ("generation", timings.generated_tokens, timings.generate_ms),
    ):
        rate = f"{tokens / ms * 1e3:10.1f} tokens/s" if ms > 0 else ""
        rows.append(f"{name:10} {ms:10.1f} ms {tokens:6} token{'s' if tokens != 1 else ' '} {rate}".rstrip())
    return "\n".join(rows)


def show(table: "RenderableType") -> None:
    """Prints a table; where it is not read on a terminal, without line breaks and padding."""
    from rich.console import Console

    if is_terminal(sys.stdout):
        Console(highlight=False).print(table)
        return
    console: Any = Console(width=1 << 16, highlight=False, color_system=None)
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def leave_quietly() -> None:
    """After a broken pipe: what is still buffered has no reader, and must not fail when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
