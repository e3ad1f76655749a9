"""Assigns nodes to devices, with causes: ggml's passes, then improvements of our own.

Each pass is a function on a draft; the improvements have switches, so that the baseline stays measurable.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Extent, Tensor
from graphsched.schedule.costs import CROSSING_BYTES, Costs
from graphsched.types.devices import HOST

if TYPE_CHECKING:
    from graphsched.schedule.policy import Policy


@dataclass(frozen=True)
class Target:
    """What a graph is scheduled onto. `devices` in priority order, the host last; `home` of weights and caches.

    `supports(device, node)`: whether a device has a kernel for a node. `shared`: weights small enough to be held by
    every device that reads them. `lengths`: the actual length of each extent in this run.
    `costs`: what decisions weigh. `switches`: those that are on, of fusions and of passes that improve on ggml's.
    """

    devices: tuple[str, ...]
    home: Callable[[Tensor], str]
    supports: Callable[[str, Tensor], bool]
    policy: "Policy"
    lengths: Mapping[str, int]
    shared: Callable[[Tensor], bool] = lambda leaf: leaf.name.startswith("rope_")
    switches: frozenset[str] = frozenset({"traffic", "hoist"})
    costs: Costs = CROSSING_BYTES

    def length(self, node: Tensor) -> int:
        """Actual rows of a node."""
        n = node.shape[0] if node.shape else 1
        return self.lengths.get(n.word, int(n)) if isinstance(n, Extent) else int(n)


@dataclass(frozen=True)
class Assignment:
    """The device of each node, and the cause in the field's words."""

    device: Mapping[Tensor, str]
    cause: Mapping[Tensor, str]


@dataclass
class _Draft:
    """An assignment that the passes complete."""

    graph: Graph
    target: Target
    device: dict[Tensor, str] = field(default_factory=dict)
    cause: dict[Tensor, str] = field(default_factory=dict)

    def put(self, node: Tensor, device: str, cause: str) -> None:
        self.device[node], self.cause[node] = device, cause

    def of(self, tensor: Tensor) -> str | None:
        """Where a tensor's bytes are, if that is decided."""
        if tensor.kind == "node":
            return self.device.get(tensor)
        return HOST if tensor.kind == "input" else self.target.home(tensor)


def assign(graph: Graph, target: Target) -> Assignment:
    """Passes 1 to 4, then the traffic rule."""
    draft = _Draft(graph, target)
    from_memory(draft)
    expand(draft)
    upgrade(draft)
    leftovers(draft)
    # After ggml's passes, so that the placement without it stays the baseline to measure against.
    if "traffic" in target.switches:
        place_by_traffic(draft)
    return Assignment(draft.device, draft.cause)


def from_memory(draft: _Draft) -> None:
    """Pass 1: a node goes where its cache or its first weight is, or where that weight is offloaded to."""
    for node in draft.graph.nodes:
        cache = next((s for s in node.sources if s.kind == "cache"), None)
        if cache is not None:
            draft.put(node, draft.target.home(cache), "1.dst")
        elif (rows := _cached(node)) is not None:
            near = draft.of(rows) or HOST  # the cache is far larger than q
            draft.put(node, near if draft.target.supports(near, node) else HOST, "1.kv")
        elif (found := _weight_of(node, draft.target)) is not None:
            draft.put(node, *_beside_weight(node, *found, draft.target))


def _cached(node: Tensor) -> Tensor | None:
    """The cache that attention reads, or a product of unfused attention."""
    if not node.traits.reads_cache:
        return None
    rows = root(node.operand(node.traits.reads_cache))
    while (
        rows.traits.gathers and rows.traits.reads_cache
    ):  # the cells of a run's sequences, in a matrix of their own
        rows = root(rows.operand(rows.traits.reads_cache))
    return rows if rows.traits.writes_cache else None


def place_beside_weight(node: Tensor, target: Target) -> str:
    """Where a node goes for the sake of its first weight, by home and policy; "" for one without weights."""
    found = _weight_of(node, target)
    return _beside_weight(node, *found, target)[0] if found else ""


def _weight_of(node: Tensor, target: Target) -> tuple[int, Tensor] | None:
    """The first weight among the sources, and its position."""
    weights = ((i, s) for i, s in enumerate(node.sources) if s.kind == "weight" and not target.shared(s))
    return next(weights, None)


def _beside_weight(node: Tensor, i: int, weight: Tensor, target: Target) -> tuple[str, str]:
    home = target.home(weight)
    can_move = weight.dtype.interleave == 1  # interleaved rows are the host's own layout
    if home == HOST and can_move and target.policy.wants(node, target.length(node)):
        for device in target.devices[:-1]:
            if target.supports(device, node):
                return device, "1.off"
    return home if target.supports(home, node) else HOST, f"1.wgt{i}"


def expand(draft: _Draft) -> None:
    """Pass 2: unassigned nodes take the device of a neighbour: from GPUs down, up, then from any down, up."""
    nodes = draft.graph.nodes
    for order, gpu_only in ((nodes, True), (nodes[::-1], True), (nodes, False), (nodes[::-1], False)):
        _sweep(draft, order, gpu_only)


def _sweep(draft: _Draft, order: Iterable[Tensor], gpu_only: bool) -> None:
    current: str | None = None
    for node in order:
        if node.traits.view:
            continue
        known = draft.device.get(node)
        if known is not None:
            current = None if gpu_only and known == HOST else known
        elif current is not None and draft.target.supports(current, node):
            draft.put(node, current, "2.sup")


def upgrade(draft: _Draft) -> None:
    """Pass 3: what is left goes where most sources can be read; ties to the device of higher priority."""
    for node in draft.graph.nodes:
        if node in draft.device or node.traits.view:
            continue
        able = [d for d in draft.target.devices if draft.target.supports(d, node)] or [HOST]
        best = max(able, key=lambda d: (sum(draft.of(s) == d for s in node.sources), -able.index(d)))
        draft.put(node, best, "3.best")


def leftovers(draft: _Draft) -> None:
    """Pass 4: a view is where its source is."""
    for node in draft.graph.nodes:
        if node.traits.view:
            source = draft.of(node.sources[0]) or HOST
            draft.put(node, source, "4.vsrc")


def place_by_traffic(draft: _Draft) -> None:
    """Weightless ops behind host experts move to the host as far as that lowers the bytes that cross.

    The routed experts' weighting and sum: one row per token comes back instead of one per expert used.
    """
    users = draft.graph.readers
    for start in draft.graph.nodes:
        if draft.device[start] == HOST and draft.cause[start].startswith("1.wgt"):
            chain = _weightless_chain(draft, start, users)
            best = min(range(len(chain) + 1), key=lambda n: _traffic(draft, start, chain[:n], users))
            for node in chain[:best]:
                draft.put(node, HOST, "traffic")


def _weightless_chain(draft: _Draft, start: Tensor, users: Mapping[Tensor, Sequence[Tensor]]) -> list[Tensor]:
    """Nodes behind `start`, each the only user of the one before, placed elsewhere by expansion only."""
    chain: list[Tensor] = []
    node = start
    while len(users[node]) == 1:
        node = users[node][0]
        if draft.cause[node] not in ("2.sup", "3.best", "4.vsrc") or draft.device[node] == HOST:
            break
        if not node.traits.view and not draft.target.supports(HOST, node):
            break
        chain.append(node)
    return chain


def _traffic(
    draft: _Draft, start: Tensor, moved: Sequence[Tensor], users: Mapping[Tensor, Sequence[Tensor]]
) -> int:
    """Bytes that cross to and from the host if `moved` follow `start` there."""
    inside = {start, *moved}
    end = moved[-1] if moved else start
    returned = end.type.nbytes if any(draft.device[u] != HOST and u not in inside for u in users[end]) else 0
    fetched = {root(s) for n in moved for s in n.sources if s.kind == "node" and s not in inside}
    return returned + sum(s.type.nbytes for s in fetched if draft.of(s) not in (None, HOST))


def root(tensor: Tensor) -> Tensor:
    """The tensor whose memory a chain of views looks at."""
    while tensor.traits.view:
        tensor = tensor.sources[0]
    return tensor


def is_foreign(source: Tensor, device: str, assignment: Assignment, target: Target) -> bool:
    """Whether a device must have a copy of a node or leaf to read it."""
    if source.kind == "node":
        return assignment.device[source] != device
    if source.kind == "weight" and target.shared(source):
        return False
    return (HOST if source.kind == "input" else target.home(source)) != device


def hoist(graph: Graph, assignment: Assignment) -> tuple[Tensor, ...]:
    """Node order in which device work that does not wait for the host's part stands in front of it.

    The shared expert then runs on its device while the host computes the routed ones. In a stage devices come first,
    each in the graph's order, so sources still come first.
    """
    stage = stages(graph, assignment)
    return tuple(sorted(graph.nodes, key=lambda n: (stage[n], assignment.device[n] == HOST)))


def stages(graph: Graph, assignment: Assignment) -> Mapping[Tensor, int]:
    """The stage of each node: how many stretches of host work, one after the other, it waits for."""
    stage: dict[Tensor, int] = {}
    for node in graph.nodes:
        on_host = assignment.device[node] == HOST
        stage[node] = max(
            (
                stage[s] + (not on_host and assignment.device[s] == HOST)
                for s in node.sources
                if s.kind == "node"
            ),
            default=0,
        )
    return stage
