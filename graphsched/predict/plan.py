"""A plan: where each node would run, its memory and predicted times, from a file's header alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from graphsched.arch.cells import blocks_of
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor, TensorType, is_state
from graphsched.machine.changes import changed
from graphsched.machine.description import read
from graphsched.machine.kept import kept
from graphsched.machine.machine import Device, Machine, Processor
from graphsched.machine.timeline import Event, Timeline, simulate
from graphsched.run.arenas import plan_arenas
from graphsched.run.device import Device as OpenDevice
from graphsched.run.device import Setup, device_names, open_devices
from graphsched.run.memory import Arena
from graphsched.run.operand import sized
from graphsched.run.runtime import in_kernel_types, lowered
from graphsched.schedule.scheduler import Schedule
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.planner import Planner, repacked
from graphsched.session.summary import window_bytes
from graphsched.types.devices import HOST
from graphsched.types.extents import (
    CELL_BLOCK,
    ENTRIES,
    N_KV,
    N_KV_SWA,
    N_OUTPUTS,
    N_SEQUENCES,
    N_TOKENS,
    OWN,
)
from graphsched.types.shapes import Lengths

_TABLES = frozenset((*ENTRIES.values(), *OWN.values()))
MEMORY_KINDS = ("weights", "kv", "state")  # of leaves that stay in a device's memory


def memory_kind(leaf: Tensor) -> str:
    """What a weight or cache counts as, one of MEMORY_KINDS."""
    return "weights" if leaf.kind == "weight" else "state" if is_state(leaf) else "kv"


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes that a device holds, and the node whose buffer set the arena's size."""

    weights: int
    kv: int
    state: int
    arena: int
    staging: int
    peak: str

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.weights + self.kv + self.state + self.arena + self.staging


@dataclass(frozen=True)
class Plan:
    """The schedule of one run with its memory and, on a described machine, its predicted times.

    `devices` are those that planned it: they have no memory and cannot run. built: the graph before all decisions.
    n_sequences: of its tokens, all equally long.
    """

    model: Model
    options: SessionOptions
    planner: Planner
    schedule: Schedule
    lengths: Mapping[str, int]
    arenas: Mapping[str, Arena]
    machine: Machine | None
    devices: Mapping[str, OpenDevice]
    built: Graph
    n_sequences: int = 1

    def bytes_of(self, tensor: Tensor) -> int:
        """Bytes of a tensor at this run's lengths."""
        return TensorType(tensor.dtype, Lengths(self.lengths).shape(tensor.shape)).nbytes

    @cached_property
    def timeline(self) -> Timeline | None:
        """Predicted events; None without a described machine."""
        if self.machine is None:
            return None
        return simulate(self.schedule, self.host, self.described_devices, self.lengths)

    @property
    def host(self) -> Processor:
        """The described host."""
        assert self.machine is not None
        return self.machine.host

    @property
    def described_devices(self) -> dict[str, Device]:
        """The described devices by the names that the schedule gives them."""
        assert self.machine is not None
        return dict(zip(self.planner.devices, self.machine.devices, strict=False))  # none may be in use

    def at(self, n_kv: int) -> "Plan":
        """The same schedule with another number of tokens in the cache of each sequence."""
        cells = _cells(self.schedule.graph, self.options.n_parallel, n_kv, self.n_sequences)
        return replace(self, lengths={**self.lengths, **cells})

    @property
    def n_kv(self) -> int:
        """Tokens in the cache of each sequence."""
        return self.lengths[N_KV]

    @property
    def shown_lengths(self) -> dict[str, int]:
        """The lengths that a user knows: those of tables follow from them."""
        return _shown(self.lengths)

    @property
    def asked(self) -> Graph:
        """The graph as the offload policy sees it: fused, and not yet placed."""
        return self.planner.fused(self.built, self.lengths)

    @cached_property
    def memory(self) -> dict[str, DeviceMemory]:
        """Per device; an offloaded weight counts where it lives, its staging buffer where it is used."""
        sizes = {on: Counter[str]() for on in (*self.planner.devices, HOST)}
        for leaf, on in self.resident():
            sizes[on][memory_kind(leaf)] += leaf.type.nbytes
        return {on: self._device_memory(on, held) for on, held in sizes.items()}

    def _device_memory(self, on: str, held: Mapping[str, int]) -> DeviceMemory:
        arena, staging = self.arenas.get(on), self.arenas.get(f"{on} staging")
        peak = getattr(arena.peak, "name", "") if arena else ""
        weights, kv, state = (held[kind] for kind in MEMORY_KINDS)
        return DeviceMemory(
            weights, kv, state, arena.nbytes if arena else 0, staging.nbytes if staging else 0, peak
        )

    def resident(self) -> list[tuple[Tensor, str]]:
        """Weights and caches that the graph reads, each with its device; one matrix under two names once a device."""
        leaves = (leaf for leaf in self.schedule.graph.leaves if leaf.kind in ("weight", "cache"))
        held = ((leaf, self.planner.homes.device(leaf)) for leaf in leaves)
        stored_as = self.model.weights.stored_as
        return list({(stored_as(leaf.name), on): (leaf, on) for leaf, on in held}.values())

    def processor(self, on: str) -> Processor:
        """The described processor of a device."""
        return self.host if on == HOST else self.described_devices[on].processor

    def split_events(self, number: int) -> list[Event]:
        """Predicted events of a split; none without a described machine."""
        return [e for e in self.timeline.events if e.split == number] if self.timeline else []

    def cause(self, node: Tensor) -> str:
        """Why a node runs where it does, in the field's words."""
        return self.schedule.assignment.cause[node]


def this_machine(options: SessionOptions) -> Machine | None:
    """The machine that computes what is on the CPU alone: of --machine, else as measured, if it was."""
    found = read(Path(options.machine)) if options.machine else kept(options.threads)
    return found and changed(found, options.what_if)


def make_plan(
    model: Model,
    options: SessionOptions,
    n_tokens: int,
    n_outputs: int,
    n_kv: int,
    memory: Mapping[str, int] | None = None,
    n_sequences: int = 1,
) -> Plan:
    """Plans one run of n_tokens of n_sequences, each of which then has n_kv tokens in the cache.

    memory: bytes of the host and the devices, where they are known already.
    """
    names = device_names(options.devices)
    devices = open_devices("null", Setup({}, n_threads=options.threads, devices=names))
    planner = Planner(model, options, names, lambda on, node: devices[on].supports(node), memory)
    graph = planner.homes.untied(model.graph(n_tokens, max(n_outputs, 1), model.context(options), options))
    graph, _ = in_kernel_types(graph, devices, planner.homes.device, repacked(planner, graph))
    cells = _cells(graph, options.n_parallel, n_kv, n_sequences)
    lengths = {N_TOKENS: n_tokens, N_OUTPUTS: n_outputs, N_SEQUENCES: n_sequences} | cells
    schedule = planner.schedule(graph, _shown(lengths))  # made for more steps than this one with its tables
    items, results, _ = lowered(schedule, devices, sized)
    arenas = plan_arenas(items, [o.buffer for o in results])
    machine = planner.machine or (None if names else this_machine(options))
    return Plan(model, options, planner, schedule, lengths, arenas, machine, devices, graph, n_sequences)


def _cells(graph: Graph, n_slots: int, n_kv: int, n_sequences: int) -> dict[str, int]:
    """The lengths of pools of cells, and of tables: of layers that see everything, and of those with a window."""
    of_window = window_bytes(graph)[1] // CELL_BLOCK // n_slots * CELL_BLOCK  # of a sequence
    found: dict[str, int] = {}
    for word, n in ((N_KV, n_kv), (N_KV_SWA, min(n_kv, of_window))):
        entries = n_sequences * blocks_of(n)
        if n:
            found |= {word: n, ENTRIES[word]: entries, OWN[word]: entries * CELL_BLOCK}
    return found


def _shown(lengths: Mapping[str, int]) -> dict[str, int]:
    """Lengths without those of tables; the number of sequences if there are several."""
    left_out = _TABLES if lengths[N_SEQUENCES] > 1 else _TABLES | {N_SEQUENCES}
    return {name: n for name, n in lengths.items() if name not in left_out}


def bound_by(events: list[Event], processor: Processor) -> str:
    """The resource that takes most of a split's time: memory, arithmetic, launches or copies."""
    compute, launches, copies = (
        sum(e.end - e.start for e in events if e.kind in kinds)
        for kinds in (("compute",), ("launch",), ("up", "down"))
    )
    if copies > compute + launches:
        return "link"
    if launches > compute:
        return "launches"
    memory = sum(e.nbytes for e in events if e.kind == "compute") / processor.bandwidth
    return "memory" if memory >= 0.999 * compute else "arithmetic"
