"""What a user should know before a model is loaded: flags without effect, tensors that are not read, memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphsched.cli.screen import Screen
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.gguf.given import Given
    from graphsched.predict.memory import Need
    from graphsched.predict.session import SessionPlan
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions


def check_session(model: "Model", options: "SessionOptions", screen: Screen) -> None:
    """Hints at what of the options has no effect, and at a host that is too small.

    OptionError if a device, or the host without mapped weights, has less memory than a session takes.
    """
    from graphsched.run.device import device_names
    from graphsched.session.planner import Planner

    if not device_names(options.devices) and _is_small(model, options):
        planner = Planner(model, options, (), lambda on, node: True)
        say_hints(model, options, planner.given(()), screen)
        return
    from graphsched.predict.session import session_plan  # imports what plans are made with

    session = session_plan(model, options)
    say_hints(model, options, session.given, screen)
    check_memory(session, options, screen)


def say_hints(model: "Model", options: "SessionOptions", given: "tuple[Given, ...]", screen: Screen) -> None:
    """A line for each flag that is cut or has no effect, and one for tensors that nothing reads."""
    for line in (*model.batching(options).notes, *_without_effect(given), *_unread(model)):
        screen.hint(f"hint: {line}")


def check_memory(session: "SessionPlan", options: "SessionOptions", screen: Screen) -> None:
    """A hint if the host is too small; OptionError if something else is, or what the host cannot map from the file."""
    from graphsched.types.devices import HOST

    for on, need in session.needs.items():
        if need.fits:
            continue
        if on != HOST or _is_hopeless(need, options):
            raise OptionError(f"{need.sentence}; -ngl, -cmoe, -ot, -c and -ub say what it takes")
        screen.hint(f"hint: {need.sentence}; weights are read from the file again and again")


def _is_small(model: "Model", options: "SessionOptions") -> bool:
    """Whether weights and caches leave half of the memory free: then it fits, which a plan needs time to say."""
    from graphsched.session.options import physical_memory
    from graphsched.session.summary import kv_bytes

    caches = kv_bytes(model.graph(1, 1, model.context(options), options))
    weights = sum(type.nbytes for type in model.types.values())
    return weights + caches < physical_memory() // 2


def _is_hopeless(need: "Need", options: "SessionOptions") -> bool:
    """Whether the host has less than what is not mapped; a described one is only planned for."""
    from graphsched.session.planner import described_machine

    fixed = need.total - (need.weights if options.mmap else 0)
    return need.has is not None and fixed > need.has and described_machine(options) is None


def _without_effect(given: "tuple[Given, ...]") -> Iterator[str]:
    from graphsched.gguf.given import unused

    for each in given:
        if line := unused([each]):
            yield line


def _unread(model: "Model") -> Iterator[str]:
    from graphsched.gguf.given import named

    if names := model.unread:
        are = "tensor is" if len(names) == 1 else "tensors are"
        yield f"{model.source}: {len(names)} {are} not read, {named(names)}"


def threads_hint(options: "SessionOptions") -> str | None:
    """A sentence if more threads compute than there are cores for them, which is slow."""
    from graphsched.run.limits import usable_cores

    cores = usable_cores()
    return (
        f"{options.threads} threads on {cores} core{'s' * (cores > 1)}" if options.threads > cores else None
    )
