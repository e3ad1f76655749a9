"""What each part of a layer weighs and takes on each device: the terms of the sum that a placement minimises."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from graphsched.graph.tensor import Tensor, TensorType, layer_of
from graphsched.predict.plan import Plan
from graphsched.schedule.by_cost import uploaded_bytes
from graphsched.schedule.placement import Placement
from graphsched.types.devices import HOST
from graphsched.types.shapes import Lengths

REST: Final = "rest"  # of a layer: attention, norms, shared experts, and its caches
# What may live apart from the rest, by its matrices; experts by part, as the reference's users place them.
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ffn": ("ffn_up", "ffn_gate", "ffn_down"),
    "up": ("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps"),
    "down": ("ffn_down_exps",),
}
_PART_OF: Final = {stem: part for part, stems in PARTS.items() for stem in stems}
EXPERTS: Final = ("up", "down")
Spot = tuple[int, str]  # a layer and a part of it; the output counts as one more layer
Fixed = Callable[
    [str], str | None
]  # the device of a tensor that options have placed, None of one that may move


@dataclass(frozen=True)
class Run:
    """A kind of run of a request: its plan, at the lengths at which it is judged, and how often it runs."""

    plan: Plan
    times: float


@dataclass
class Work:
    """A part of a layer.

    nbytes: of what moves with it, weights and caches. held: bytes that stay where options have put them. seconds: of a
    whole request by device. sends: seconds of bringing its results to
    another part of its layer, by that part and both devices.
    """

    nbytes: int = 0
    held: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    sends: dict[tuple[str, str, str], float] = field(default_factory=lambda: defaultdict(float))


def part_of(name: str) -> str:
    """The part of a layer that a weight belongs to, by its name."""
    stem = name.split(".")[2] if name.startswith("blk.") else ""
    return _PART_OF.get(stem, REST)


def works(runs: Sequence[Run], devices: Sequence[str], fixed: Fixed) -> dict[Spot, Work]:
    """All parts of a model with their bytes and seconds on the host and each of the devices."""
    found: dict[Spot, Work] = defaultdict(Work)
    for run in runs:
        _Adding(run, tuple(devices), fixed, found).all()
    leaves = {leaf.name: leaf for run in runs for leaf, _ in run.plan.resident()}
    for leaf in leaves.values():
        spot = spot_of(leaf.name, runs[0].plan.model.config.n_layer)
        place = fixed(leaf.name) if leaf.kind == "weight" else None
        if place:
            found[spot].held[place] += leaf.type.nbytes
        else:
            found[spot].nbytes += leaf.type.nbytes
    return dict(found)


def spot_of(name: str, n_layer: int) -> Spot:
    """The spot of a weight or cache, by its name."""
    layer = layer_of(name)
    return (layer if layer >= 0 else n_layer, part_of(name))


def held_by(terms: Mapping[Spot, Work], placement: Placement) -> Mapping[str, int]:
    """Bytes that a placement of whole layers, or of these without their experts, leaves on each device."""
    layers, found = (*placement.layers, placement.output), Counter[str]()
    for (layer, part), work in terms.items():
        experts = placement.homes.get(f"blk.{layer}.ffn_down_exps.weight") if part in EXPERTS else None
        found[experts.device if experts else layers[layer]] += work.nbytes
        found.update(work.held)
    return found


def placed(nodes: Iterable[Tensor], n_layer: int) -> Iterator[tuple[Tensor, Spot]]:
    """Nodes in running order with their spots: of a layer are its weights' readers, and what follows them."""
    layer = 0
    for node in nodes:
        names = [s.name for s in node.sources if s.kind == "weight"]
        if names and not node.traits.gathers:
            layer = max(spot_of(name, n_layer)[0] for name in names)
        parts = {part_of(name) for name in names} - {REST}
        yield node, (layer, min(parts) if parts else REST)


@dataclass(frozen=True)
class _Adding:
    """Adds up the nodes of a run."""

    run: Run
    devices: tuple[str, ...]
    fixed: Fixed
    found: dict[Spot, Work]

    def all(self) -> None:
        """Every node that works, and what its spot gets from another of its layer, once each."""
        plan, spots, sent = self.run.plan, dict[Tensor, Spot](), set[tuple[Tensor, Spot]]()
        for node, spot in placed(plan.schedule.graph.nodes, plan.model.config.n_layer):
            spots[node] = spot
            if node.traits.no_work or node.traits.gathers:
                continue
            for device in (*self.devices, HOST):
                self.found[spot].seconds[device] += self.run.times * self._seconds(node, device)
            for source in node.sources:
                origin = spots.get(source, spot)
                if origin[0] == spot[0] and origin != spot and (source, spot) not in sent:
                    sent.add((source, spot))
                    self._send(source, origin, spot[1])

    def _seconds(self, node: Tensor, device: str) -> float:
        """A node whose weights are on a device; those of the host may be uploaded where that takes less time."""
        costs, lengths = self.run.plan.planner.costs, dict(self.run.plan.lengths)
        weights = [s.name for s in node.sources if s.kind == "weight"]
        device = next((place for name in weights if (place := self.fixed(name))), device)
        own = costs.compute(device, node, lengths)
        if device != HOST or not (weights and node.traits.product and self.devices):
            return own
        upload = costs.copy(uploaded_bytes(node, lengths), HOST, self.devices[0])
        return min(own, max(upload, costs.compute(self.devices[0], node, lengths)))

    def _send(self, source: Tensor, origin: Spot, part: str) -> None:
        """What it takes to bring a result to another part of its layer, from and to each device."""
        costs, shape = self.run.plan.planner.costs, Lengths(self.run.plan.lengths).shape(source.shape)
        nbytes = TensorType(source.dtype, shape).nbytes
        for a in (*self.devices, HOST):
            for b in (*self.devices, HOST):
                if a != b:
                    self.found[origin].sends[part, a, b] += self.run.times * costs.copy(nbytes, a, b)
