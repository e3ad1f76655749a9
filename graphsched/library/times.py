"""Times of a plan: predicted for a described machine and, kept apart, measured on this one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from graphsched.machine.machine import Machine
from graphsched.run.device import is_simulated
from graphsched.run.trace import Event, Trace
from graphsched.types.devices import HOST


@dataclass(frozen=True)
class Times:
    """Predicted and measured times, each a trace of its own, in nanoseconds; they share no clock and are never mixed.

    predicted: of the described machine, None without one. measured: of the last run on this machine, None before it;
    what it says of a simulated device, this machine's CPU computed.
    """

    machine: Machine | None
    predicted: Trace | None
    measured: Trace | None

    def __str__(self) -> str:
        predicted, measured = "predicted: no machine is described", "measured: no run yet"
        if self.predicted is not None and self.machine is not None:
            title = f"predicted on {self.machine.name}, by a virtual clock"
            predicted = _table(title, self.predicted, lambda device: device)
        if self.measured is not None:
            title = "measured on this machine, in the last run"
            measured = _table(title, self.measured, _computed_by)
        return f"{predicted}\n{measured}"


def _computed_by(device: str) -> str:
    return f"{HOST} for {device}" if is_simulated(device) else device


def _table(title: str, trace: Trace, where: Callable[[str], str]) -> str:
    """A table of steps and copies by start: start, duration, device, op and name."""
    (run,) = trace.runs
    lines = [f"{title}: {(run.end - run.begin) / 1e3:.1f} µs"]
    for e in sorted(_whole(trace), key=lambda e: e.begin):
        begin, length = (e.begin - run.begin) / 1e3, e.ns / 1e3
        lines.append(f"{begin:10.1f} µs {length:9.2f} µs  {where(e.device):12} {e.op:18} {e.name}")
    return "\n".join(lines)


def _whole(trace: Trace) -> list[Event]:
    """Steps and copies; the barrier behind one is a part of it, as it ends when all threads are done."""
    found: list[Event] = []
    for e in trace.events:
        if e.kind in ("step", "copy"):
            found.append(e)
        elif e.kind == "barrier" and found and (found[-1].lane, found[-1].end) == (e.lane, e.begin):
            found[-1] = replace(found[-1], end=e.end)
    return found
