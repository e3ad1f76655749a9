"""Traces in the Trace Event Format, as chrome://tracing and Perfetto read it: lanes of streams, flows of copies."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from graphsched.graph.graph import Graph
from graphsched.measure.profile import Phase
from graphsched.measure.profile_data import Data
from graphsched.run.trace import HOST_LANE, Event, Run
from graphsched.types.devices import HOST

Json = dict[str, Any]
NAMES: Final = {"wake": "thread wake-up"}


def chrome_trace(phases: Sequence[Phase], data: Data) -> Json:
    """The last repetition of each phase as a process with a thread per lane; `data` goes along for comparisons."""
    events = [e for pid, phase in enumerate(phases, 1) for e in _process(phase, pid)]
    return {"traceEvents": events, "displayTimeUnit": "ns", "graphsched": data}


def lanes(events: Sequence[Event]) -> list[str]:
    """Python's lane, the host's threads, then each device's streams."""
    found = dict.fromkeys(e.lane for e in events if e.kind != "view")
    return sorted(found, key=lambda lane: (lane != HOST_LANE, not lane.startswith(HOST), lane))


def _process(phase: Phase, pid: int) -> Iterator[Json]:
    events = [e for e in phase.trace.events if e.kind != "view"]
    start = phase.wall[0][0] if phase.wall else 0
    tids = {lane: i for i, lane in enumerate(lanes(events))}
    about = f"{phase.name}, {'predicted' if phase.is_predicted else 'measured'}"
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": about}}
    for lane, tid in tids.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
    for e in events:
        yield _slice(e, start) | {"pid": pid, "tid": tids[e.lane]}
    for number, flow in enumerate(flows(events, phase.trace.runs)):
        for phase_of_flow, at, e in flow:
            yield {
                "ph": phase_of_flow, "name": "copy", "cat": "copy", "id": f"{pid}.{number}", "bp": "e",
                "ts": _micro(at - start), "pid": pid, "tid": tids[e.lane],
            }  # fmt: skip


def _micro(ns: int) -> float:
    return ns / 1000


def _slice(event: Event, start: int) -> Json:
    args: Json = {
        key: value
        for key, value in (
            ("op", event.op),
            ("label", event.label),
            ("type", event.type),
            ("device", event.device),
            ("bytes", event.nbytes),
            ("direction", event.direction),
            ("for", event.peer),
        )
        if value
    }
    name = event.name if event.kind in ("step", "copy", "wait") else NAMES.get(event.kind, event.kind)
    times = {"ts": _micro(event.begin - start), "dur": _micro(event.ns)}
    return {"ph": "X", "name": name or event.kind, "cat": event.kind, **times, "args": args}


def flows(events: Sequence[Event], runs: Sequence[Run]) -> Iterator[list[tuple[str, int, Event]]]:
    """Of each copy: the step that made the tensor, the copy, and the first step that reads it, where they are there."""
    parts = [_op_of_result(run.schedule.graph) for run in runs]
    made: dict[tuple[int, str], Event] = {}
    reads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for e in events:
        if e.kind == "step":
            made[e.run, e.name] = e
            reads[e.run, e.node].append(e)
    for copy in events:
        if copy.kind != "copy":
            continue
        whole = parts[copy.run].get(copy.name, copy.name) if 0 <= copy.run < len(parts) else copy.name
        maker = made.get((copy.run, whole))
        readers = [e for e in reads.get((copy.run, copy.node), ()) if e.begin >= copy.end]
        points = (
            [(maker, maker.end - 1 if maker.ns else maker.end)] if maker and maker.end <= copy.begin else []
        )
        points.append((copy, copy.begin))
        points += [(e, e.begin) for e in readers[:1]]
        if len(points) > 1:
            kinds = ["s", *("t" for _ in points[2:]), "f"]
            yield [(kind, at, e) for kind, (e, at) in zip(kinds, points, strict=True)]


def _op_of_result(graph: Graph) -> Mapping[str, str]:
    """The name of each PART node -> the name of the multi-result node whose step computes it."""
    parts = (n for n in graph.nodes if n.traits.result_of)
    return {graph.names[n]: graph.names[n.operand(n.traits.result_of)] for n in parts}
