"""A session for a command: hints, progress while it loads, and what -v says about it."""

from pathlib import Path
from typing import TYPE_CHECKING

from graphsched import flags
from graphsched.commands.interrupts import Interrupts
from graphsched.commands.screen import Screen

if TYPE_CHECKING:
    from graphsched.options import SessionOptions
    from graphsched.session import Session


def open_session(
    model: Path | None, options: "SessionOptions", screen: Screen, interrupts: Interrupts
) -> "Session":
    """Loads the model; Ctrl-C also ends the work that later reports progress."""
    import graphsched  # not above: it imports the compiler

    def progress(what: str, done: int, total: int) -> None:
        interrupts.check()
        screen.progress(what, done, total)

    interrupts.last_words = screen.end
    if hint := flags.batch_hint(options):
        screen.say(f"hint: {hint}")
    options, reason = with_gpus(options)
    if reason and flags.asks_for_devices(options):
        screen.say(f"no usable GPU, everything runs on the CPU: {reason}")
    session = graphsched.load(model, progress=progress, **vars(options))
    screen.clear()
    screen.detail(session.model.summary())
    screen.detail(described(session))
    return session


def with_gpus(options: "SessionOptions") -> tuple["SessionOptions", str | None]:
    """The options with all usable GPUs where --device says nothing, or why there are none in one sentence."""
    from graphsched import device

    if options.devices or options.backend != "cpu":
        return options, None
    if reason := device.gpu_reason():
        return options, reason
    return flags.changed(options, devices=tuple(g.name for g in device.gpus())), None


def described(session: "Session") -> str:
    """The effective options in one line."""
    o = session.options
    return (
        f"backend {o.backend}, {o.threads} threads, context {session.n_ctx}, batch {o.n_batch}, "
        f"micro-batch {o.n_ubatch}, cache {o.type_k}/{o.type_v}, off: {', '.join(sorted(o.off)) or 'none'}"
    )
