"""The memory of a session: the most that its runs take, beside what its host and devices have."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphsched.graph.tensor import Tensor
from graphsched.predict.plan import Plan, memory_kind
from graphsched.run.device import is_gpu
from graphsched.types.devices import HOST

_LARGEST: Final = 3  # contributors that a sentence names
_CACHES: Final = {"kv": "KV cache", "state": "recurrent state"}  # what parts of these kinds are called
_LAYER: Final = re.compile(r"^blk\.\d+\.|\.weight$")


@dataclass(frozen=True)
class Need:
    """Bytes that a session takes of a device, the node whose buffer set the arena's size, and what the device has.

    derived: of weights that the file lacks, computed from others. arena, staging: the most of all runs; the host stages
    what it uploads to real devices in page-locked copies. has: None if nobody knows. parts: bytes by what they are for,
    largest first.
    """

    device: str
    weights: int
    derived: int
    kv: int
    state: int
    arena: int
    staging: int
    peak: str
    has: int | None
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.weights + self.derived + self.kv + self.state + self.arena + self.staging

    @property
    def left(self) -> int | None:
        """Bytes that are not taken, below 0 where it does not fit; None if nobody knows."""
        return None if self.has is None else self.has - self.total

    @property
    def fits(self) -> bool:
        """Whether the device has as much, as far as anybody knows."""
        return self.left is None or self.left >= 0

    @property
    def sentence(self) -> str:
        """By how much it does not fit, and what takes most."""
        assert self.has is not None
        largest = ", ".join(f"{name} {megabytes(size)}" for name, size in self.parts[:_LARGEST])
        sizes = (
            f"{megabytes(self.total)} of {megabytes(self.has)}, {megabytes(self.total - self.has)} too much"
        )
        return f"the memory of {self.device} is too small: a session takes {sizes}; the largest are {largest}"

    def as_json(self) -> dict[str, Any]:
        """The bytes, for reports; `of` and `free` are null if nobody knows what the device has."""
        sizes = {"weights": self.weights, "derived": self.derived, "kv": self.kv}
        sizes |= {"state": self.state} if self.state else {}
        sizes |= {"arena": self.arena, "staging": self.staging}
        about = {"peak": self.peak, "total": self.total, "of": self.has, "free": self.left, "fits": self.fits}
        return sizes | about


def needs(plans: Sequence[Plan]) -> Mapping[str, Need]:
    """What a session of all these runs takes of each device; weights and caches of any of them count once."""
    held = {key: found for plan in plans for key, found in _held(plan)}
    capacities = plans[0].planner.capacities
    return {on: _need(on, held, plans, capacities.get(on)) for on in (*plans[0].planner.devices, HOST)}


Held = Mapping[tuple[str, str], tuple[Tensor, int]]


def _held(plan: Plan) -> Iterator[tuple[tuple[str, str], tuple[Tensor, int]]]:
    """Weights and caches by the name under which they are stored and their device, with their bytes."""
    for leaf, on in plan.resident():
        is_weight = leaf.kind == "weight"
        nbytes = plan.devices[on].weight_bytes(leaf.type) if is_weight else leaf.type.nbytes
        yield (plan.model.weights.stored_as(leaf.name), on), (leaf, nbytes)


def _need(on: str, held: Held, plans: Sequence[Plan], has: int | None) -> Need:
    parts = Counter[str]()
    own = [(leaf, nbytes) for (_, place), (leaf, nbytes) in held.items() if place == on]
    for leaf, nbytes in own:
        parts[_CACHES.get(memory_kind(leaf), _LAYER.sub("", leaf.name))] += nbytes
    (kv, state), lacking = (parts[name] for name in _CACHES.values()), plans[0].model.derived
    derived = sum(nbytes for leaf, nbytes in own if leaf.name in lacking)
    arenas = [plan.arenas[on] for plan in plans if on in plan.arenas]
    largest = max(arenas, key=lambda arena: arena.nbytes, default=None)
    arena = largest.nbytes if largest else 0
    rings = (plan.arenas.get(f"{on} staging") for plan in plans)
    staging = max((ring.nbytes for ring in rings if ring), default=0)
    weights = parts.total() - kv - state - derived
    copies = sum(_page_locked(plans).values()) if on == HOST else 0
    parts.update({"arena": arena, "staging": staging, "page-locked copies": copies})
    peak = getattr(largest.peak, "name", "") if largest else ""
    shown = tuple(sorted((part for part in parts.items() if part[1]), key=lambda part: (-part[1], part[0])))
    return Need(on, weights, derived, kv, state, arena, staging + copies, peak, has, shown)


def _page_locked(plans: Sequence[Plan]) -> Mapping[tuple[str, str], int]:
    """Bytes of the copies from which real devices upload weights, by device and name: each is kept for all runs."""
    return {
        (copy.to_device, copy.source.name): plan.devices[copy.to_device].weight_bytes(copy.source.type)
        for plan in plans
        for copy in plan.schedule.copies
        if copy.is_weight and copy.from_device == HOST and is_gpu(copy.to_device)
    }


def megabytes(n: float) -> str:
    """1.2 kB, 3.4 MB, -5.6 GB"""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n) >= unit:
            return f"{n / unit:.1f} {name}"
    return f"{int(n)} B"
