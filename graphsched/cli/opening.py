"""Opens a session for a command: hints, progress while it loads, and details for -v."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphsched.cli import flags
from graphsched.cli.details import details
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
    import graphsched  # not above: it imports the compiler
    from graphsched.session.model import Model
    from graphsched.session.session import Session

    def progress(what: str, done: int, total: int) -> None:
        interrupts.check()
        screen.progress(what, done, total)

    interrupts.last_words = screen.end
    warnings.showwarning = lambda warning, *where: screen.hint(f"hint: {warning}")
    if hint := flags.batch_hint(options):
        screen.hint(f"hint: {hint}")
    options, reason = with_gpus(options)
    if reason and flags.asks_for_devices(options):
        screen.hint(f"no usable GPU, everything runs on the CPU: {reason}")
    if isinstance(model, Model):
        session = Session(model, options, progress)
    else:
        session = graphsched.load(model, progress=progress, **vars(options))
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
