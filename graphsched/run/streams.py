"""Streams: orders their work where it touches the same bytes, by flags that one raises and another waits for.

Every device has a compute, an upload and a download stream, or shares the host's. A stream runs its items in order; an
item that touches bytes which an item of another stream touched waits for that one, unless it is known to be done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graphsched.run.operand import Addresses, Item, Operand, Work

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Flag:
    """An event: a word that its producer raises in every run, and that one stream waits for. Lowered before a run."""

    number: int


@dataclass(frozen=True)
class Signal:
    """Raises a flag once everything before it in its stream is done."""

    flag: Flag
    device: str
    work: Work = "compute"

    def reads(self) -> list[Operand]:
        """None: a flag is no operand."""
        return []

    def writes(self) -> list[Operand]:
        """None: a flag is no operand."""
        return []


@dataclass(frozen=True)
class Wait(Signal):
    """Nothing after it in its stream starts before the flag is raised."""


@dataclass
class _Access:
    """An access to a range of bytes: the stream, and the position of the item in it."""

    span: Span
    stream: str
    position: int
    is_write: bool


@dataclass
class _Streams:
    addresses: Addresses
    items: dict[str, list[Item]] = field(default_factory=dict)
    # per stream: how far each other stream is known to be
    known: dict[str, dict[str, int]] = field(default_factory=dict)
    known_at: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)  # ids of memories that anything writes
    accesses: dict[int, list[_Access]] = field(default_factory=dict)
    waits: dict[tuple[str, int], list[Flag]] = field(default_factory=dict)
    signals: dict[tuple[str, int], list[Flag]] = field(default_factory=dict)
    n_flags: int = 0

    def add(self, stream: str, item: Item) -> None:
        own, known = self.items.setdefault(stream, []), self.known.setdefault(stream, {})
        position = len(own)
        own.append(item)
        touched = [(o, False) for o in item.reads()] + [(o, True) for o in item.writes()]
        new = [
            (id(self.addresses.at(o)[0]), _Access(self.addresses.span(o), stream, position, w))
            for o, w in touched
        ]
        new = [(memory, access) for memory, access in new if memory in self.written]
        self._order_after(stream, position, [a for m, x in new for a in self._conflicts(m, x)])
        for memory, access in new:
            self.accesses[memory] = _remembered(self.accesses.get(memory, ()), access)
        self.known_at[stream, position] = dict(known)

    def _conflicts(self, memory: int, new: _Access) -> list[_Access]:
        """Earlier accesses of other streams that an item must come after."""
        return [
            a
            for a in self.accesses.get(memory, ())
            if a.stream != new.stream and (new.is_write or a.is_write) and _overlap(a.span, new.span)
        ]

    def _order_after(self, stream: str, position: int, accesses: Sequence[_Access]) -> None:
        """Waits for the last of each stream, unless that is known to be done once the others are."""
        last: dict[str, int] = {}
        for a in accesses:
            last[a.stream] = max(last.get(a.stream, -1), a.position)
        for producer, at in last.items():
            others = (self.known_at[other] for other in last.items() if other[0] != producer)
            if not any(known.get(producer, -1) >= at for known in (self.known[stream], *others)):
                self._wait(stream, position, producer, at)

    def _wait(self, stream: str, position: int, producer: str, at: int) -> None:
        flag = Flag(self.n_flags)
        self.n_flags += 1
        self.waits.setdefault((stream, position), []).append(flag)
        self.signals.setdefault((producer, at), []).append(flag)
        known = self.known[stream]
        known[producer] = at
        for other, done in self.known_at[producer, at].items():
            if other != stream:
                known[other] = max(known.get(other, -1), done)

    def finish(self, devices: Mapping[str, str]) -> dict[str, list[Item]]:
        """The items of each stream with its waits and signals."""
        return {stream: self._with_events(stream, devices[stream]) for stream in self.items}

    def _with_events(self, stream: str, device: str) -> list[Item]:
        out: list[Item] = []
        for position, item in enumerate(self.items[stream]):
            out += (Wait(flag, device) for flag in self.waits.get((stream, position), ()))
            out.append(item)
            out += (Signal(flag, device) for flag in self.signals.get((stream, position), ()))
        return out


def _remembered(accesses: Sequence[_Access], new: _Access) -> list[_Access]:
    """Accesses to remember after a new one. Those that a write covers are dropped: later items wait for the write."""
    if new.is_write:
        kept = [a for a in accesses if not (new.span[0] <= a.span[0] and a.span[1] <= new.span[1])]
    else:
        kept = [a for a in accesses if (a.span, a.stream, a.is_write) != (new.span, new.stream, False)]
    return [*kept, new]


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def in_streams(
    items: Sequence[Item], stream_of: Callable[[Item], tuple[str, str]], addresses: Addresses
) -> tuple[dict[str, list[Item]], int]:
    """Items in running order -> those of each stream with its waits and signals, and the number of flags.

    `stream_of`: the stream of an item, and the device that runs that stream.
    """
    owners = dict(map(stream_of, items))
    if len(owners) < 2:
        return {stream: list(items) for stream in owners}, 0
    streams = _Streams(addresses, written={id(addresses.at(o)[0]) for item in items for o in item.writes()})
    for item in items:
        streams.add(stream_of(item)[0], item)
    return streams.finish(owners), streams.n_flags
