"""Headless Chromium, told what to do over a pipe: DevTools messages are JSON, with a zero byte behind each."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from waiting import until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]


def chromium() -> str | None:
    """The browser's program, None where none is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A page of a browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, os.fdopen(back, "rb", buffering=0)
        self._numbers, self._rest, self._session = count(1), b"", ""
        self.requested: list[str] = []
        self._is_loaded = False

    def open(self, url: str) -> None:
        """Opens an address in a new page."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.requested, self._is_loaded = [], False
        self._call("Network.enable")
        self._call("Page.enable")
        self._call("Page.navigate", url=url)
        while not self._is_loaded:
            self._heard(self._next())

    def eval(self, code: str) -> Any:
        """What JavaScript makes; a promise is waited for."""
        found = self._call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code: str) -> None:
        """Waits until JavaScript makes something true."""
        until(lambda: bool(self.eval(f"Boolean({code})")), 30)

    def screenshot(self) -> str:
        """The page as it looks, PNG in base 64."""
        data: str = self._call("Page.captureScreenshot")["data"]
        return data

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        about = {"sessionId": self._session} if self._session and not method.startswith("Target.") else {}
        text = json.dumps({"id": number, "method": method, "params": params} | about)
        os.write(self._to, text.encode() + b"\0")
        while (message := self._next()).get("id") != number:
            self._heard(message)
        assert "error" not in message, message
        found: dict[str, Any] = message["result"]
        return found

    def _heard(self, event: dict[str, Any]) -> None:
        """Notes what happens in the page; of a page before this one nothing."""
        if event.get("sessionId") != self._session:
            return
        if event["method"] == "Network.requestWillBeSent":
            self.requested.append(event["params"]["request"]["url"])
        self._is_loaded |= event["method"] == "Page.loadEventFired"

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._back.read(1 << 16)
            assert more, "the browser has ended"
            self._rest += more
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found

    def close(self) -> None:
        """Ends the browser."""
        with suppress(OSError, AssertionError):
            self._call("Browser.close")
        self._back.close()
        os.close(self._to)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that is ended with the block."""
    program = chromium()
    assert program is not None
    theirs, to = os.pipe()
    back, their_end = os.pipe()

    # It reads from descriptor 3 and writes to 4. High copies first: one of the four may be 3 or 4 itself.
    def numbered() -> None:
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate((theirs, their_end))]
        for fd, number in zip(high, (3, 4), strict=True):
            os.dup2(fd, number)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "--window-size=1300,850"],
            preexec_fn=numbered,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(their_end)
        browser = Browser(to, back)
        try:
            yield browser
        finally:
            browser.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
