"""Opens a session for a command: hints, progress while it loads, and details for -v."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphsched.cli import flags
from graphsched.cli.details import details
from graphsched.cli.hints import check_session
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.screen import Screen

if TYPE_CHECKING:
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session


def open_session(
    model: "Path | Model | None", options: "SessionOptions", screen: Screen, interrupts: Interrupts
) -> "Session":
    """A session on a file, or on a model that is open already; Ctrl-C also ends work that later reports progress."""
    from graphsched.session.model import Model, open_default_or  # not above: they import the compiler
    from graphsched.session.session import opened

    def progress(what: str, done: int, total: int) -> None:
        interrupts.check()
        screen.progress(what, done, total)

    interrupts.last_words = screen.end
    warnings.showwarning = lambda warning, *where: screen.hint(f"hint: {warning}")
    options, reason = with_gpus(options)
    if reason and flags.asks_for_devices(options):
        screen.hint(f"no usable GPU, everything runs on the CPU: {reason}")
    started = time.perf_counter()
    loaded = model if isinstance(model, Model) else open_default_or(model)
    check_session(loaded, options, screen)
    session = opened(loaded, options, progress, started)
    screen.clear()
    if screen.verbose:
        for line in details(session):
            screen.detail(line)
    return session


def with_gpus(options: "SessionOptions") -> tuple["SessionOptions", str | None]:
    """The options with all usable GPUs where --device says nothing, or why there are none in one sentence."""
    from graphsched.run import device

    if options.devices or options.backend != "cpu":
        return options, None
    if reason := device.gpu_reason():
        return options, reason
    return replace(options, devices=tuple(g.name for g in device.gpus())), None
