"""The virtual clock: when each node and copy of a schedule would run on a described machine.

Every device has a compute, an upload and a download stream; the host has one lane. A stream runs its work in order, and
work waits for what it reads (events), for nothing else: copies overlap compute wherever data allows. Weights that are
uploaded for one run pass through a ring of staging buffers, so that the next upload runs during the current op.
The clock never uses measured time: these are predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphsched.graph.cost import cost_of, used_share
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.machine.machine import Device, Processor, copy_seconds, node_seconds
from graphsched.run.spans import length, union
from graphsched.schedule.scheduler import Copy, Schedule, Split
from graphsched.schedule.staging import RING, Issue, issue_order
from graphsched.types.devices import HOST
from graphsched.types.shapes import Lengths


@dataclass(frozen=True)
class Event:
    """Work on a lane from `start` to `end`, in seconds.

    kind: compute, up, down; launch, which precedes compute; host, which is the work of a run in front of all else.

    issue: its number in the order of issue. after: the lane whose work it had to wait for, empty if it was its own.
    """

    lane: str
    kind: str
    name: str
    op: str
    start: float
    end: float
    nbytes: float
    split: int
    issue: int = -1
    after: str = ""


@dataclass(frozen=True)
class Timeline:
    """Events of one run, in order of scheduling."""

    events: tuple[Event, ...]

    @property
    def wall(self) -> float:
        """Seconds from the start to the end of the last event."""
        return max((e.end for e in self.events), default=0.0)

    def busy(self, *kinds: str, lane: str | None = None) -> float:
        """Length of the union of intervals of the given kinds."""
        own = [(e.start, e.end) for e in self.events if e.kind in kinds and lane in (None, e.lane)]
        return float(length(union(own)))

    @property
    def overhead(self) -> float:
        """Wall time in which neither compute nor copies run."""
        return self.wall - self.busy("compute", "up", "down")

    def hidden(self) -> float:
        """Share of the shorter of (upload, device compute) that runs behind the other."""
        up = [(e.start, e.end) for e in self.events if e.kind == "up"]
        compute = [(e.start, e.end) for e in self.events if e.kind == "compute" and e.lane != HOST]
        alone = [length(union(s)) for s in (up, compute)]
        together = sum(alone) - length(union(up + compute))
        return float(together / min(alone)) if min(alone) else 1.0


def simulate(
    schedule: Schedule,
    host: Processor,
    devices: Mapping[str, Device],
    lengths: Mapping[str, int],
    order: Sequence[int] | None = None,
) -> Timeline:
    """Runs a schedule on the virtual clock of a described machine; `order`: numbers of issues, if not all in order."""
    clock = _Clock(schedule, host, devices, lengths)
    issues = issue_order(schedule)
    for number in range(len(issues)) if order is None else order:
        clock.run(number, issues[number])
    return Timeline(tuple(clock.events))


@dataclass
class _Clock:
    schedule: Schedule
    host: Processor
    devices: Mapping[str, Device]
    lengths: Mapping[str, int]
    events: list[Event] = field(default_factory=list)
    free: dict[str, float] = field(default_factory=dict)  # lane -> when its last work ends
    ready: dict[Tensor, float] = field(default_factory=dict)  # node or copy -> when its value is there
    ring: dict[str, list[float]] = field(default_factory=dict)  # device -> when each staging buffer is free
    made_on: dict[Tensor, str] = field(default_factory=dict)  # node or copy -> the lane that makes it
    issue: int = -1

    @property
    def is_captured(self) -> bool:
        """Decode is replayed from captured graphs, a prompt is launched kernel by kernel."""
        return self.lengths.get("n_tokens", 1) == 1

    def __post_init__(self) -> None:
        self.began = self.host.run_us * 1e-6
        if self.began:
            self.events.append(Event(HOST, "host", "run", "", 0.0, self.began, 0, -1))
        self.uploads = {c.tensor for c in self.schedule.copies if c.is_weight}

    def run(self, number: int, issue: Issue) -> None:
        self.issue = number
        if isinstance(issue.work, Copy):
            self._copy(issue.split, issue.work)
        else:
            self._node(issue.split, self.schedule.splits[issue.split], issue.work)

    def _copy(self, number: int, copy: Copy) -> None:
        source = self.schedule.placed.get(copy.source, copy.source)
        needs = [(self.ready.get(source, 0.0), self.made_on.get(source, ""))]
        if copy.ids is not None:
            needs.append((self.ready.get(copy.ids, 0.0), self.made_on.get(copy.ids, "")))
        if copy.is_weight:
            needs.append((self._slot(copy.to_device), copy.to_device))
        nbytes = self._bytes(copy)
        for device, direction in ((copy.from_device, "down"), (copy.to_device, "up")):
            if device != HOST:
                needs = [self._send(number, copy, device, direction, max(needs), nbytes)]
        self.ready[copy.tensor], self.made_on[copy.tensor] = max(needs)

    def _send(
        self, number: int, copy: Copy, device: str, direction: str, need: tuple[float, str], nbytes: float
    ) -> tuple[float, str]:
        lane, (start, after) = f"{device} {direction}", need
        begin = max(start, self.free.get(lane, self.began))
        link = self.devices[device].link
        end = begin + copy_seconds(link, nbytes, "up" if direction == "up" else "down")
        name = self.schedule.graph.names.get(copy.source, copy.source.name)
        self._add(Event(lane, direction, name, "COPY", begin, end, nbytes, number, self.issue, after))
        return end, lane

    def _slot(self, device: str) -> float:
        """Seconds at which the next staging buffer is free: when the op that reads it has run."""
        slots = self.ring.setdefault(device, [0.0] * RING)
        if not slots:  # one op reads more weights than the ring holds
            return self.free.get(device, self.began)
        slots.sort()
        return slots.pop(0)

    def _bytes(self, copy: Copy) -> float:
        type = TensorType(copy.source.dtype, Lengths(self.lengths).shape(copy.source.shape))
        if copy.ids is None:
            return type.nbytes
        return type.nbytes * used_share(type.shape[0], Lengths(self.lengths).shape(copy.ids.shape))

    def _node(self, number: int, split: Split, node: Tensor) -> None:
        needs = [(self.ready.get(s, 0.0), self.made_on.get(s, "")) for s in node.sources]
        start, after = max(needs, default=(0.0, ""))
        if node.traits.no_work:
            self.ready[node], self.made_on[node] = start, after
            return
        processor = self.host if split.device == HOST else self.devices[split.device].processor
        cost = cost_of(node, self.lengths)
        begin = max(start, self.free.get(split.device, self.began))
        ran = begin + (processor.graph_us if self.is_captured else processor.launch_us) * 1e-6
        end = ran + node_seconds(processor, cost)
        old = self.schedule.origin.get(node, node)
        name = self.schedule.graph.names.get(old, "")
        op, on, own = node.op.name, split.device, (number, self.issue)
        self._add(Event(on, "launch", name, op, begin, ran, 0, *own, after))
        self._add(Event(on, "compute", name, op, ran, end, cost.nbytes, *own))
        self.ready[node], self.made_on[node] = end, on
        self.ring.get(split.device, []).extend(end for s in node.sources if s in self.uploads)

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self.free[event.lane] = event.end
