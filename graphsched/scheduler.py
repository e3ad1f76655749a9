"""The scheduler: which device runs each node and why, where the graph is cut, and what is copied.

Passes as in ggml's backend scheduler (numbers and cause strings are the field's), then improvements of our own,
each a function from an assignment to an assignment and each with a switch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from graphsched.graph import Graph
from graphsched.opdef import AnyOp, Op
from graphsched.tensor import Extent, Tensor

if TYPE_CHECKING:
    from graphsched.policy import OffloadPolicy

HOST = "CPU"
VIEWS = (Op.RESHAPE, Op.VIEW, Op.PERMUTE, Op.TRANSPOSE)
MAX_INPUTS = 64  # of one split
WORTH_WAITING = 0.9  # share of experts used up to which an upload waits for the ids


@dataclass(frozen=True)
class Target:
    """What a graph is scheduled onto. `devices` in priority order, the host last; `home` of weights and caches.

    `supports(device, node)`: whether a device has a kernel for a node. `shared`: weights small enough to be held by
    every device that reads them. `lengths`: the actual length of each extent in this run.
    """

    devices: tuple[str, ...]
    home: Callable[[Tensor], str]
    supports: Callable[[str, Tensor], bool]
    policy: "OffloadPolicy"
    lengths: Mapping[str, int]
    shared: Callable[[Tensor], bool] = lambda leaf: leaf.name.startswith("rope_")
    improve: frozenset[str] = frozenset({"traffic", "hoist"})

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
    """An assignment in the making."""

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

    def is_view(self, node: Tensor) -> bool:
        return _op(node) in VIEWS


def _op(node: Tensor) -> AnyOp:
    assert node.opdef is not None
    return node.opdef.op


def _op_of(tensor: Tensor) -> AnyOp | None:
    return tensor.opdef.op if tensor.opdef else None


def assign(graph: Graph, target: Target) -> Assignment:
    """Passes 1 to 4, then the traffic rule."""
    draft = _Draft(graph, target)
    from_memory(draft)
    expand(draft)
    upgrade(draft)
    leftovers(draft)
    if "traffic" in target.improve:
        place_by_traffic(draft)
    return Assignment(draft.device, draft.cause)


def from_memory(draft: _Draft) -> None:
    """Pass 1: a node goes where its cache or its first weight is, or where that weight is offloaded to."""
    for node in draft.graph.nodes:
        cache = next((s for s in node.sources if s.kind == "cache"), None)
        if cache is not None:
            draft.put(node, draft.target.home(cache), "1.dst")
        elif _op(node) is Op.FLASH_ATTN_EXT and _op_of(root(node.sources[1])) is Op.SET_ROWS:
            draft.put(node, draft.of(root(node.sources[1])) or HOST, "1.kv")  # the cache is far larger than q
        elif (found := _weight_of(node, draft.target)) is not None:
            draft.put(node, *_beside_weight(node, *found, draft.target))


def _weight_of(node: Tensor, target: Target) -> tuple[int, Tensor] | None:
    """The first weight among the sources, and its position."""
    weights = ((i, s) for i, s in enumerate(node.sources) if s.kind == "weight" and not target.shared(s))
    return next(weights, None)


def _beside_weight(node: Tensor, i: int, weight: Tensor, target: Target) -> tuple[str, str]:
    home = target.home(weight)
    if home == HOST and target.policy.wants(node, target.length(node)):
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
        if draft.is_view(node):
            continue
        known = draft.device.get(node)
        if known is not None:
            current = None if gpu_only and known == HOST else known
        elif current is not None and draft.target.supports(current, node):
            draft.put(node, current, "2.sup")


def upgrade(draft: _Draft) -> None:
    """Pass 3: what is left goes where most sources can be read; ties to the device of higher priority."""
    for node in draft.graph.nodes:
        if node in draft.device or draft.is_view(node):
            continue
        able = [d for d in draft.target.devices if draft.target.supports(d, node)] or [HOST]
        best = max(able, key=lambda d: (sum(draft.of(s) == d for s in node.sources), -able.index(d)))
        draft.put(node, best, "3.best")


def leftovers(draft: _Draft) -> None:
    """Pass 4: a view is where its source is."""
    for node in draft.graph.nodes:
        if draft.is_view(node):
            source = draft.of(node.sources[0]) or HOST
            draft.put(node, source, "4.vsrc")


def place_by_traffic(draft: _Draft) -> None:
    """Weightless ops behind host experts move to the host as far as that lowers the bytes that cross.

    The routed experts' weighting and sum: one row per token comes back instead of one per expert used.
    """
    users = draft.graph.users()
    for start in draft.graph.nodes:
        if draft.device[start] == HOST and draft.cause[start].startswith("1.wgt"):
            chain = _weightless_chain(draft, start, users)
            best = min(range(len(chain) + 1), key=lambda n: _traffic(draft, start, chain[:n], users))
            for node in chain[:best]:
                draft.put(node, HOST, "traffic")


def _weightless_chain(draft: _Draft, start: Tensor, users: Mapping[Tensor, list[Tensor]]) -> list[Tensor]:
    """Nodes behind `start`, each the only user of the one before, placed elsewhere by expansion only."""
    chain: list[Tensor] = []
    node = start
    while len(users[node]) == 1:
        node = users[node][0]
        if draft.cause[node] not in ("2.sup", "3.best", "4.vsrc") or draft.device[node] == HOST:
            break
        if not draft.is_view(node) and not draft.target.supports(HOST, node):
            break
        chain.append(node)
    return chain


def _traffic(
    draft: _Draft, start: Tensor, moved: Sequence[Tensor], users: Mapping[Tensor, list[Tensor]]
) -> int:
    """Bytes that cross to and from the host if `moved` follow `start` there."""
    inside = {start, *moved}
    end = moved[-1] if moved else start
    returned = end.type.nbytes if any(draft.device[u] != HOST and u not in inside for u in users[end]) else 0
    fetched = {root(s) for n in moved for s in n.sources if s.kind == "node" and s not in inside}
    return returned + sum(s.type.nbytes for s in fetched if draft.device[s] != HOST)


def root(tensor: Tensor) -> Tensor:
    """The tensor whose memory a chain of views looks at."""
    while tensor.kind == "node" and _op(tensor) in VIEWS:
        tensor = tensor.sources[0]
    return tensor


def hoist(graph: Graph, assignment: Assignment) -> tuple[Tensor, ...]:
    """Node order in which device work that does not wait for the host's part stands in front of it.

    The shared expert then runs on its device while the host computes the routed ones. A node's stage is the number of
    host parts it waits for; in a stage devices come first, each in the graph's order, so sources still come first.
    """
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
    return tuple(sorted(graph.nodes, key=lambda n: (stage[n], assignment.device[n] == HOST)))


@dataclass(frozen=True, eq=False)
class Copy:
    """A tensor brought to another device: once per (tensor, device) and run. `ids` picks the experts that are sent."""

    source: Tensor
    from_device: str
    to_device: str
    tensor: Tensor  # a leaf of kind "copy" that the split's nodes read
    ids: Tensor | None = None

    @property
    def is_weight(self) -> bool:
        return self.source.kind == "weight"


@dataclass(frozen=True)
class Split:
    """Nodes that run together on one device, after their inputs have arrived."""

    device: str
    nodes: tuple[Tensor, ...]
    inputs: tuple[Copy, ...]


@dataclass(frozen=True)
class Schedule:
    """The cut graph: what runs where, in which order, and what is copied before it."""

    graph: Graph
    assignment: Assignment
    splits: tuple[Split, ...]
    placed: Mapping[Tensor, Tensor]  # node of the graph -> node of a split

    @cached_property
    def origin(self) -> Mapping[Tensor, Tensor]:
        """Node of a split -> node of the graph."""
        return {new: old for old, new in self.placed.items()}

    @cached_property
    def index(self) -> Mapping[Tensor, int]:
        """Node of a split -> its number in the graph."""
        return {self.placed[node]: i for i, node in enumerate(self.graph.nodes) if node in self.placed}

    def dump(self, names: Callable[[Tensor], str] | None = None) -> str:
        """Splits with their inputs and bytes; the form of the snapshots."""
        name = names or (lambda t: self.graph.names.get(t, t.name))
        lines = []
        for i, split in enumerate(self.splits):
            lines.append(f"split {i} on {split.device}")
            lines += [f"  <- {name(c.source)} {c.source.type} from {c.from_device}" for c in split.inputs]
            for node in split.nodes:
                old = self.origin.get(node)
                if old is not None:
                    lines.append(f"     {_op(old).name:18} {name(old):28} {self.assignment.cause[old]}")
        return "\n".join(lines)


def schedule(graph: Graph, target: Target) -> Schedule:
    """Assigns, orders and cuts a graph."""
    assignment = assign(graph, target)
    order = hoist(graph, assignment) if "hoist" in target.improve else graph.nodes
    return cut(graph, order, assignment, target)


def cut(graph: Graph, order: Sequence[Tensor], assignment: Assignment, target: Target) -> Schedule:
    """Pass 5: a new split where the device changes, where a split with inputs meets another uploaded weight, and
    where it would need more inputs than fit. A tensor is copied once to a device; later splits reuse it."""
    cutter = _Cutter(assignment, target, graph.names)
    for node in order:
        cutter.add(node)
    for output in graph.outputs:
        cutter.keep(output)
    return Schedule(graph, assignment, cutter.finish(), cutter.placed)


class _Cutter:
    """Builds splits node by node."""

    def __init__(self, assignment: Assignment, target: Target, names: Mapping[Tensor, str]) -> None:
        self._assignment, self._target, self._names = assignment, target, names
        self._copies: dict[tuple[Tensor, str], Copy] = {}
        self._views: dict[tuple[Tensor, str], Tensor] = {}
        self._splits: list[Split] = []
        self._nodes: list[Tensor] = []
        self._inputs: list[Copy] = []
        self._device = ""
        self.placed: dict[Tensor, Tensor] = {}

    def add(self, node: Tensor) -> None:
        """Views cost nothing: they join the split that reads them."""
        if _op(node) in VIEWS:
            return
        device, ids = self._assignment.device[node], _expert_ids(node, self._target)
        foreign = [s for s in map(root, node.sources) if self._is_foreign(s, device)]
        if self._starts_a_split(device, foreign, ids):
            self._close(device)
        for source in foreign:
            self._bring(source, device, ids if source.kind == "weight" else None)
        self._nodes.append(self._rewritten(node, device))

    def _is_foreign(self, source: Tensor, device: str) -> bool:
        if source.kind == "node":
            return self._assignment.device[source] != device
        if source.kind == "weight" and self._target.shared(source):
            return False
        return (HOST if source.kind == "input" else self._target.home(source)) != device

    def _starts_a_split(self, device: str, foreign: Sequence[Tensor], ids: Tensor | None) -> bool:
        if device != self._device:
            return True
        fresh = [s for s in foreign if (s, device) not in self._copies]
        uploads = any(s.kind == "weight" for s in foreign)
        if uploads and ids is not None and self.placed.get(root(ids)) in self._nodes:
            return True  # the ids that choose what is uploaded are computed in this very split
        return bool(self._inputs) and (uploads or len(self._inputs) + len(fresh) > MAX_INPUTS)

    def _bring(self, source: Tensor, device: str, ids: Tensor | None = None) -> Tensor:
        """The copy of a source on a device, made on first need; expert ids come to the host first, once."""
        if (source, device) not in self._copies:
            if ids is not None and self._is_foreign(root(ids), HOST):
                ids = self._bring(root(ids), HOST)
            origin = self._assignment.device[source] if source.kind == "node" else _home(source, self._target)
            name = f"{device}#{self._names.get(source, source.name)}#0"
            leaf = Tensor(source.type, kind="copy", name=name)
            self._copies[source, device] = Copy(source, origin, device, leaf, ids)
            self._inputs.append(self._copies[source, device])
        return self._copies[source, device].tensor

    def _rewritten(self, node: Tensor, device: str) -> Tensor:
        """The node on its device's memory."""
        sources = tuple(self._on(s, device) for s in node.sources)
        changed = any(a is not b for a, b in zip(sources, node.sources, strict=True))
        self.placed[node] = replace(node, sources=sources) if changed else node
        return self.placed[node]

    def _on(self, source: Tensor, device: str) -> Tensor:
        """A source as a device reads it: its own, a copy, or a view of either."""
        if source.kind == "node" and _op(source) in VIEWS:
            if (source, device) not in self._views:
                self._views[source, device] = replace(source, sources=(self._on(source.sources[0], device),))
                self._nodes.append(self._views[source, device])
            return self._views[source, device]
        if self._is_foreign(source, device):
            return self._copies[source, device].tensor
        return self.placed.get(source, source)

    def keep(self, output: Tensor) -> None:
        """An output that is a view belongs to the last split."""
        self.placed.setdefault(output, self._on(output, self._assignment.device[output]))

    def _close(self, device: str) -> None:
        if self._nodes:
            self._splits.append(Split(self._device, tuple(self._nodes), tuple(self._inputs)))
        self._nodes, self._inputs, self._device = [], [], device

    def finish(self) -> tuple[Split, ...]:
        self._close("")
        return tuple(self._splits)


def _home(leaf: Tensor, target: Target) -> str:
    return HOST if leaf.kind == "input" else target.home(leaf)


def _expert_ids(node: Tensor, target: Target) -> Tensor | None:
    """The ids operand of an op by expert, if it is expected to leave experts unused: only those it names are sent.

    Where nearly all are used, waiting for the ids costs more than it saves: the upload may start layers ahead.
    """
    if _op(node) not in (Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE):
        return None
    ids = node.sources[-1]
    share = used_share(node.sources[0].shape[0], target.length(ids) * int(ids.shape[1]))
    return ids if share < WORTH_WAITING else None


def used_share(n_expert: int, n_choices: int) -> float:
    """Expected share of experts that n_choices independent even choices hit."""
    return 1.0 - (1.0 - 1.0 / n_expert) ** n_choices


def whole(graph: Graph) -> Schedule:
    """The schedule that runs everything on the host."""
    assignment = Assignment(dict.fromkeys(graph.nodes, HOST), dict.fromkeys(graph.nodes, "host only"))
    return Schedule(graph, assignment, (Split(HOST, graph.nodes, ()),), {n: n for n in graph.nodes})
