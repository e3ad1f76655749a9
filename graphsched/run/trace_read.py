"""Reading a trace: spans and the times that programs left become events."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from graphsched.graph.cost import used_share
from graphsched.graph.tensor import Tensor, TensorType, layer_of
from graphsched.run.device import StepTime
from graphsched.run.executable import Executable, Tag
from graphsched.run.lowering import is_python_step
from graphsched.run.trace import EVAL, HOST_LANE, RUN, Event, Run, Trace
from graphsched.schedule.assign import root
from graphsched.schedule.scheduler import Copy, Schedule
from graphsched.schedule.staging import issue_order
from graphsched.types.devices import HOST
from graphsched.types.shapes import Lengths

LAYER = re.compile(r"^blk\.\d+\.")
QUANTIZE = "quantize"  # activations into blocks: a row of its own


def read(spans: Iterable[tuple[Any, ...]]) -> Trace:
    """The events of a session's spans; steps that are overwritten are missing."""
    reader = _Reader()
    for span in spans:
        reader.add(*span)
    return Trace(tuple(reader.events), tuple(reader.runs))


@dataclass
class _Reader:
    events: list[Event] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    pending: list[tuple[int, int]] = field(default_factory=list)  # runs since the last evaluation
    known: dict[int, dict[int, Event]] = field(
        default_factory=dict
    )  # per schedule: events without times, by issue

    def add(self, kind: str, begin: int, end: int, *rest: Any) -> None:
        if kind == RUN:
            self._run(begin, end, *rest)
        elif kind == EVAL:
            self._around_runs(begin, end)
        else:
            self.events.append(Event(kind, HOST_LANE, kind, begin, end))

    def _around_runs(self, begin: int, end: int) -> None:
        """Events for the time of an evaluation outside its runs: inputs before each run, outputs after the last."""
        inside = [r for r in self.pending if begin <= r[0] and r[1] <= end]
        self.pending.clear()
        for first, last in inside:
            self.events.append(Event("inputs", HOST_LANE, "inputs", begin, first))
            begin = last
        self.events.append(Event("outputs" if inside else "host", HOST_LANE, "outputs", begin, end))

    def _run(
        self, begin: int, end: int, executable: Executable, lengths: Mapping[str, int], marks: Sequence[int]
    ) -> None:
        number = len(self.runs)
        programs = executable.programs
        times = {s: programs[s].times(mark) for s, mark in zip(executable.order, marks, strict=True)}
        last = max((s.released for s in times.get(HOST, ()) if not s.thread), default=0.0)
        end = end or max(begin, round(last * 1e9))
        self.pending.append((begin, end))
        self.runs.append(Run(executable.schedule, lengths, begin, end))
        work = self.known.setdefault(id(executable.schedule), described(executable.schedule, lengths))
        for stream, steps in times.items():
            tags = executable.tags[stream]
            for thread, group in groupby(steps, key=lambda s: s.thread):
                lane = stream if thread == 0 else f"{stream} thread {thread}"
                rows = list(group)
                thread_tags = [t for t in tags if not t.is_python] if thread else tags
                self.events += _stream(rows, thread_tags, lane, work, number)
            if stream == HOST and steps:
                self.events += _launches(steps, begin, end, number)
                for wake in _wakes(steps, tags, number):
                    self._wake(wake)

    def _wake(self, wake: Event) -> None:
        """Adds a wake-up. A barrier that the thread left only after thread 0 went on ends where the wake-up begins."""
        for i in range(len(self.events) - 1, -1, -1):
            event = self.events[i]
            if 0 <= event.run < wake.run - 1:
                break
            if event.lane == wake.lane and event.begin < wake.begin < event.end:
                self.events[i] = replace(event, end=wake.begin)
        self.events.append(wake)


def described(schedule: Schedule, lengths: Mapping[str, int]) -> dict[int, Event]:
    """An event without times for each issue of a schedule, by its number in the order of issue."""
    issues = issue_order(schedule)
    readers: dict[Tensor, int] = {}
    for issue in issues:
        if not isinstance(issue.work, Copy):
            for source in issue.work.sources:
                readers.setdefault(root(source), schedule.index.get(issue.work, -1))
    return {
        i: copy_event(schedule, issue.work, lengths, readers.get(issue.work.tensor, -1))
        if isinstance(issue.work, Copy)
        else node_event(schedule, issue.work)
        for i, issue in enumerate(issues)
    }


def node_event(schedule: Schedule, node: Tensor) -> Event:
    """A node of a split as an event without times."""
    old = schedule.origin.get(node, node)
    name = schedule.graph.names.get(old, "")
    op = node.op.name + (" (Python)" if is_python_step(node) else "")
    split_device = schedule.assignment.device.get(old, HOST)
    kind, label = "view" if node.traits.no_work else "step", schedule.graph.labels.get(old, name)
    index, layer = schedule.index.get(node, -1), layer_of(name)
    return Event(
        kind, split_device, name, 0, 0, op, label, split_device, index, layer, str(node.type)
    )  # fmt: skip


def copy_event(schedule: Schedule, copy: Copy, lengths: Mapping[str, int], reader: int) -> Event:
    """A copy as an event without times; `reader`: the number of the node that reads it first."""
    direction = "down" if copy.to_device == HOST else "up"
    device = copy.from_device if direction == "down" else copy.to_device
    name = schedule.graph.names.get(copy.source, copy.source.name)
    peer = HOST if direction == "down" else device
    label = schedule.graph.labels.get(copy.source) or LAYER.sub("", name)
    return Event(
        "copy", f"{device} {direction}", name, 0, 0, "COPY", label, device, reader, layer_of(name),
        str(copy.source.type), copied_bytes(copy, lengths), direction, peer,
    )  # fmt: skip


def copied_bytes(copy: Copy, lengths: Mapping[str, int]) -> float:
    """Bytes of a copy at actual lengths; of experts as many as are expected to be used."""
    actual = Lengths(lengths)
    type = TensorType(copy.source.dtype, actual.shape(copy.source.shape))
    if copy.ids is None:
        return type.nbytes
    return type.nbytes * used_share(type.shape[0], actual.shape(copy.ids.shape))


def _stream(
    steps: Sequence[StepTime], tags: Sequence["Tag"], lane: str, work: Mapping[int, Event], run: int
) -> Iterator[Event]:
    """Events of a thread: steps, waits for other streams, and the barrier behind each."""
    for step, tag in zip(steps, tags, strict=True):
        begin, done, released = (round(t * 1e9) for t in (step.begun, step.done, step.released))
        event = Event("launch", lane, step.kernel, 0, 0, device=step.device)
        if tag.peer:
            event = replace(event, kind="wait", name=f"wait for {tag.peer}", peer=tag.peer)
        elif tag.issue >= 0:
            op = QUANTIZE if step.kernel.startswith(QUANTIZE) else work[tag.issue].op
            event = replace(work[tag.issue], lane=lane, op=op)
        yield replace(event, begin=begin, end=done, run=run, kernel=step.kernel)
        if released > done:
            yield Event("barrier", lane, "barrier", done, released, device=step.device, run=run)


def _launches(steps: Sequence[StepTime], begin: int, end: int, run: int) -> Iterator[Event]:
    """Events for gaps of the host's program within a run: its start, around Python steps, and its return."""
    for step in steps:
        if step.thread:
            break
        start = round(step.begun * 1e9)
        if start > begin:
            yield Event("launch", HOST_LANE, "launch", begin, start, run=run)
        begin = max(begin, round(step.released * 1e9))
    if end > begin:
        yield Event("launch", HOST_LANE, "launch", begin, end, run=run)


def _wakes(steps: Sequence[StepTime], tags: Sequence["Tag"], run: int) -> Iterator[Event]:
    """Wake-ups: from where thread 0 begins a program, or goes on after a Python step, to where each thread does."""
    begins: list[int] = []
    for step, tag, before in zip(steps, tags, (None, *tags), strict=False):
        if not tag.is_python and (before is None or before.is_python):
            begins.append(round(step.begun * 1e9))
    kernels = [t for t in tags if not t.is_python]
    first = [i for i, t in enumerate(kernels) if i == 0 or t.after_python]
    for thread, group in groupby(steps[len(tags) :], key=lambda s: s.thread):
        rows = list(group)
        for begin, i in zip(begins, first, strict=True):
            yield Event(
                "wake",
                f"{HOST} thread {thread}",
                "wake up",
                begin,
                max(begin, round(rows[i].begun * 1e9)),
                run=run,
            )
