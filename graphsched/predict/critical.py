"""The critical path of a predicted run: the chain of events, each of which began when the one before it ended."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from graphsched.machine.timeline import Event, Timeline

_NEAR: Final = 1e-12  # seconds in which times are the same


@dataclass(frozen=True)
class Share:
    """What a lane does on the path: so many events, seconds together. Without them the run were so much shorter."""

    lane: str
    what: str
    count: int
    seconds: float


def critical_path(timeline: Timeline) -> tuple[Event, ...]:
    """The events that end the run as late as it ends, in order of time; () for an empty run."""
    by_lane: dict[str, list[Event]] = defaultdict(list)
    for event in timeline.events:
        by_lane[event.lane].append(event)
    path = [max(timeline.events, key=lambda e: e.end)] if timeline.events else []
    while path and (before := _before(path[-1], by_lane)) is not None:
        path.append(before)
    return tuple(path[::-1])


def _before(event: Event, by_lane: dict[str, list[Event]]) -> Event | None:
    """What an event had to come after: work of its own lane, or of the one that it waited for."""
    for lane in dict.fromkeys((event.lane, event.after)):
        for other in by_lane.get(lane, ()):
            if other is not event and abs(other.end - event.start) <= _NEAR and other.start < event.start:
                return other
    return None


def shares(path: tuple[Event, ...]) -> list[Share]:
    """The path by lane and op, what takes longest first; starts of ops and copies have rows of their own."""
    found: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in path:
        found[event.lane, {"launch": "starts", "host": "Python"}.get(event.kind, event.op)].append(event)
    rows = [Share(*key, len(events), sum(e.end - e.start for e in events)) for key, events in found.items()]
    return sorted(rows, key=lambda row: -row.seconds)
