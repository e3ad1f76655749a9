"""The trace of simulated devices: what the virtual clock gives for a schedule, planned or as it was run."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from graphsched.predict.plan import Plan
from graphsched.predict.timeline import Timeline, simulate
from graphsched.run.executable import Executable
from graphsched.run.trace import Event, Run, Trace
from graphsched.run.trace_read import described
from graphsched.schedule.scheduler import Schedule
from graphsched.schedule.staging import issue_order
from graphsched.types.devices import HOST


def planned_trace(plan: Plan) -> Trace:
    """The trace that a plan predicts."""
    assert plan.timeline is not None, "times are predicted for described machines only"
    return as_trace(plan.timeline, plan.schedule, plan.lengths)


def executed_trace(plan: Plan, made: Executable, lengths: Mapping[str, int], mark: int) -> Trace:
    """The virtual clock's trace of a run that took place: its issues in the order in which they were executed.

    `plan` gives the machine only; schedule and order are those of the executable, `mark` is its run in the ring.
    """
    begun = {
        tag.issue: step.begun
        for step, tag in zip(
            reversed(made.programs[HOST].times(mark)), reversed(made.tags[HOST]), strict=True
        )
        if tag.issue >= 0
    }
    timeline = simulate(
        made.schedule, plan.host, plan.described_devices, lengths, executed_order(made.schedule, begun)
    )
    return as_trace(timeline, made.schedule, lengths)


def executed_order(schedule: Schedule, begun: Mapping[int, float]) -> list[int]:
    """Numbers of issues by when they began; those without work of their own (views) right behind the one before."""
    last, keys = 0.0, []
    for i in range(len(issue_order(schedule))):
        last = begun.get(i, last)
        keys.append((last, i))
    return [i for _, i in sorted(keys)]


def as_trace(timeline: Timeline, schedule: Schedule, lengths: Mapping[str, int]) -> Trace:
    """A timeline as events of one run; a lane that stands still waits for what its next work needs."""
    whats = described(schedule, lengths)
    events: list[Event] = []
    free: dict[str, int] = defaultdict(int)
    for e in timeline.events:
        begin, end = round(e.start * 1e9), round(e.end * 1e9)
        if begin > free[e.lane]:
            name = f"wait for {e.after}"
            events.append(
                Event("wait", e.lane, name, free[e.lane], begin, device=e.lane, peer=e.after, run=0)
            )
        free[e.lane] = end
        what = whats[e.issue]
        if e.kind == "launch":
            events.append(Event("launch", e.lane, what.name, begin, end, device=what.device, run=0))
        else:
            events.append(replace(what, lane=e.lane, begin=begin, end=end, nbytes=e.nbytes, run=0))
    return Trace(tuple(events), (Run(schedule, lengths, 0, round(timeline.wall * 1e9)),))
