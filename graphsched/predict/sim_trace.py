"""Predicted traces: a schedule on the virtual clock."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from graphsched.machine.timeline import Timeline
from graphsched.predict.plan import Plan
from graphsched.run.trace import Event, Run, Trace
from graphsched.run.trace_read import described
from graphsched.schedule.scheduler import Schedule


def planned_trace(plan: Plan) -> Trace:
    """The trace that a plan predicts."""
    assert plan.timeline is not None, "times are predicted for described machines only"
    return as_trace(plan.timeline, plan.schedule, plan.lengths)


def as_trace(timeline: Timeline, schedule: Schedule, lengths: Mapping[str, int]) -> Trace:
    """A timeline as events of one run; a lane that stands still waits for what its next work needs."""
    whats = described(schedule, lengths)
    events: list[Event] = []
    free: dict[str, int] = defaultdict(int)
    for e in timeline.events:
        begin, end = round(e.start * 1e9), round(e.end * 1e9)
        # What a lane does between its events is waiting, for the lane that the next event had to come after.
        if begin > free[e.lane]:
            name = f"wait for {e.after}"
            events.append(
                Event("wait", e.lane, name, free[e.lane], begin, device=e.lane, peer=e.after, run=0)
            )
        free[e.lane] = end
        if e.kind == "host":
            events.append(Event("host", e.lane, e.name, begin, end, run=0))
            continue
        what = whats[e.issue]
        if e.kind == "launch":
            events.append(Event("launch", e.lane, what.name, begin, end, device=what.device, run=0))
        else:
            events.append(replace(what, lane=e.lane, begin=begin, end=end, nbytes=e.nbytes, run=0))
    return Trace(tuple(events), (Run(schedule, lengths, 0, round(timeline.wall * 1e9)),))
