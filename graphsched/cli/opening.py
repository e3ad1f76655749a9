"""Opens a session for a command: hints, progress while it loads, and details for -v."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphsched.cli import flags
from graphsched.cli.details import details
from graphsched.cli.fitting import with_fit
from graphsched.cli.hints import check_session, threads_hint
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.screen import Screen

if TYPE_CHECKING:
    from graphsched.session.engine import Observer
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session


def open_session(
    model: "Path | Model | None",
    options: "SessionOptions",
    screen: Screen,
    interrupts: Interrupts,
    *,
    needs_text: bool = False,
    observer: "Observer | None" = None,
) -> "Session":
    """A session on a file, or on a model that is open already; Ctrl-C also ends work that later reports progress.

    needs_text: what is wrong with its vocabulary is an error now, and what the file does not say about it a hint.
    """
    from graphsched.session.model import Model, open_default_or  # not above: they import the compiler
    from graphsched.session.session import opened

    def progress(what: str, done: int, total: int) -> None:
        interrupts.check()
        screen.progress(what, done, total)

    interrupts.last_words = screen.end
    warnings.showwarning = lambda warning, *where: screen.hint(f"hint: {warning}")
    if hint := threads_hint(options):
        screen.hint(f"hint: {hint}")
    options, reason = with_gpus(options)
    if reason and flags.asks_for_devices(options):
        screen.hint(f"no usable GPU, everything runs on the CPU: {reason}")
    started = time.perf_counter()
    loaded = model if isinstance(model, Model) else open_default_or(model, options.override_kv)
    if needs_text:
        hint_at_text(loaded, screen)
    options, found = with_fit(loaded, options, screen)
    if found is not None:
        screen.hint(f"fit: {found.flags}")
    check_session(loaded, options, screen)
    session = opened(loaded, options, progress, started, observer)
    screen.clear()
    hint_at_unused(loaded, options, screen)
    if screen.verbose:
        for line in details(session):
            screen.detail(line)
    return session


def hint_at_text(model: "Model", screen: Screen) -> None:
    """Says what is assumed about the vocabulary. LoadError if there is none, a bad one, or that of another model."""
    for note in model.tokenizer.notes:
        screen.hint(f"hint: {note}")


def hint_at_unused(model: "Model", options: "SessionOptions", screen: Screen) -> None:
    """Names what has no effect on this model: overrides of metadata that nothing reads, and -ser without experts."""
    if options.ser is not None and not model.leaves_experts_out(options):
        why = f"no layer chooses more than {options.ser[0]} experts, or by groups"
        screen.hint(f"hint: without effect: -ser, as {why}")
    if model.unused is not None:
        _ = model.has_text  # reads the keys of the vocabulary, whether the command needs one or not
    if model.unused is not None:
        screen.hint(f"hint: {model.unused}")


def with_gpus(options: "SessionOptions") -> tuple["SessionOptions", str | None]:
    """The options with all usable GPUs where --device says nothing, or why there are none in one sentence."""
    from graphsched.run import device

    if options.devices or options.backend != "cpu":
        return options, None
    if reason := device.gpu_reason():
        return options, reason
    return replace(options, devices=tuple(g.name for g in device.gpus())), None
