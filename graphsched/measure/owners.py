"""Attributes each instant of the wall time to one row, so that rows add up to it exactly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from graphsched.run.spans import EMPTY, Span, clip, length, union
from graphsched.run.trace import Event
from graphsched.types.devices import HOST

UNATTRIBUTED: Final = "unattributed"
# Who owns an instant in which several things happen: the first in this order, behind compute on each device. Waits are
# behind launches: who waits for a stream waits for its launches, too, and they are what the time goes to.
_BY_KIND: Final = {
    "copy up": "copies to devices",
    "copy down": "copies from devices",
    "launch": "launches",
    "wait": "sync: waiting for another stream",
    "wake": "thread wake-up",
    "barrier": "barriers",
    "compile": "compiling kernels",
    "load": "load",
    "build": "graph build",
    "place": "place weights",
    "plan": "plan",
    "inputs": "host: input set-up",
    "outputs": "host: output copy",
    "sampling": "host: sampling",
    "tokenise": "host: tokenising",
    "detokenise": "host: detokenising",
    "slots": "host: slots of requests",
    "host": "host: other",
    "idle": "idle: no requests",
}
# Rows that are shown even where they are empty.
ALWAYS: Final = (
    "copies to devices", "copies from devices", "launches", "sync: waiting for another stream", "thread wake-up",
    "barriers", "graph build", "plan", "host: input set-up", "host: output copy", "host: sampling",
    "host: detokenising",
)  # fmt: skip


@dataclass(frozen=True)
class Owned:
    """Nanoseconds that a row owns, and those in which it was busy, also where another row owns them."""

    ns: int
    busy: int


def owner(event: Event) -> str:
    """The row that an event belongs to; empty for the host's threads but the first, whose lane stands for them."""
    if event.kind == "step":
        is_other_thread = event.device == HOST and event.lane != HOST
        return "" if is_other_thread else f"compute on {event.device}"
    if event.kind == "copy":
        return _BY_KIND[f"copy {event.direction}"]
    if event.kind == "barrier" and event.lane != HOST:
        return ""
    return _BY_KIND.get(event.kind, "")


def owners(
    events: Iterable[Event], wall: Sequence[Span], devices: Sequence[str] = (HOST,)
) -> dict[str, Owned]:
    """Each instant of `wall` (spans apart from each other) has one owner; the rows' ns add up to its length.

    `devices`: in order of priority, the host last.
    """
    spans: dict[str, list[Span]] = {}
    for event in events:
        spans.setdefault(owner(event), []).append((event.begin, event.end))
    spans.pop("", None)
    clipped = {name: clip(union(owned), wall) for name, owned in spans.items()}
    order = [f"compute on {d}" for d in devices]
    order += [name for name in spans if name.startswith("compute on ") and name not in order]
    order += _BY_KIND.values()
    found: dict[str, Owned] = {}
    claimed = EMPTY
    for name in order:
        owned = clipped.get(name, EMPTY)
        # In order of priority: an instant belongs to the first row that was busy in it.
        before, claimed = length(claimed), union(np.concatenate((claimed, owned)))
        found[name] = Owned(length(claimed) - before, length(owned))
    total = sum(b - a for a, b in wall)
    found[UNATTRIBUTED] = Owned(total - length(claimed), total - length(claimed))
    return found


def shown(rows: Mapping[str, Owned]) -> dict[str, Owned]:
    """The rows to show: all with time, and some that readers expect even at 0."""
    computing = (n for n in rows if n.startswith("compute on "))
    kept = {*computing, *ALWAYS, UNATTRIBUTED}
    return {name: owned for name, owned in rows.items() if owned.busy or name in kept}
