"""One session's devices and memory, and schedules made ready to run on them."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from graphsched.arch.stored import StoredWeights
from graphsched.graph.graph import Graph, replace_leaves
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.arenas import plan_arenas
from graphsched.run.device import COMPILING, Device, Progress, Raw, Setup, open_devices
from graphsched.run.executable import Executable, tagged
from graphsched.run.lowering import Low
from graphsched.run.operand import FLAG_BYTES, Addresses, Buffer, Item, Memory, Operand, dense
from graphsched.run.repack import repack
from graphsched.run.streams import in_streams
from graphsched.run.trace import Recorder
from graphsched.schedule.scheduler import Copy, Schedule, whole
from graphsched.schedule.staging import issue_order
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType
from graphsched.types.shapes import Lengths

Array = NDArray[Any]
Leaf = Callable[[str, Tensor], Operand]  # device, weight or input or cache


def open_runtime(backend: str, setup: Setup) -> "Runtime":
    """Devices of a session, the host computing on a backend. OptionError for an unknown name."""
    return Runtime(setup, open_devices(backend, setup))


class Runtime:
    """Devices and memory of one session. The host reads weights where they are mapped, other devices hold copies.

    Executables of one runtime share arenas: the results of one are gone once another has run.
    """

    def __init__(self, setup: Setup, devices: Mapping[str, Device]) -> None:
        self.setup, self.devices = setup, devices
        self.recorder = Recorder(setup.trace)
        self._memory: dict[tuple[str, str], Memory] = {}
        self._arenas: dict[str, Memory] = {}  # the largest so far, of devices and their staging rings
        self._stored: dict[str, DType] = {}  # weights read in another type, and their type in the file

    def supports(self, device: str, node: Tensor) -> bool:
        """Whether a device has a kernel for a node."""
        return self.devices[device].supports(node)

    def input(self, leaf: Tensor) -> Array:
        """The host array that feeds an input, at its largest capacity."""
        raw = self._allocated(leaf, HOST).bytes
        if leaf.dtype.numpy is None:
            return raw
        return raw.view(leaf.dtype.numpy).reshape(Lengths(self.setup.capacities).shape(leaf.shape))

    def _allocated(self, leaf: Tensor, device: str) -> Memory:
        """Memory of an input or cache, zeroed, at its largest capacity."""
        if (leaf.name, device) not in self._memory:
            size = leaf.dtype.tensor_bytes(Lengths(self.setup.capacities).shape(leaf.shape))
            self._memory[leaf.name, device] = self.devices[device].allocate(size)
        return self._memory[leaf.name, device]

    def cache(self, leaf: Tensor, device: str) -> Memory:
        """The memory of a cache on the device where it lives."""
        return self._allocated(leaf, device)

    def leaf(self, device: str, tensor: Tensor) -> Operand:
        """The operand of a weight, input or cache on a device."""
        memory = self._weight(tensor, device) if tensor.kind == "weight" else self._allocated(tensor, device)
        return dense(Buffer(tensor.name, memory.nbytes, memory, device=device), tensor.type)

    def _weight(self, tensor: Tensor, device: str) -> Memory:
        """A weight as a device holds it; two names of one matrix share it."""
        raw, key = self.setup.weights[tensor.name], self._key(tensor, device)
        if key not in self._memory:
            if stored := self._stored.get(tensor.name):
                raw = self._converted(raw, stored, tensor)
            self._memory[key] = self.devices[device].adopt(raw, tensor)
        return self._memory[key]

    def _key(self, tensor: Tensor, device: str) -> tuple[str, str]:
        """The key of a weight's memory on a device: by its bytes, as two names may share them."""
        raw = self.setup.weights[tensor.name]
        return f"{raw.size} bytes at {raw.ctypes.data} as {tensor.dtype}", device

    def _convert(self, graph: Graph, progress: Progress | None) -> None:
        """Repacks what the graph reads, with progress; the mapped pages behind it are given back one by one."""
        weights = [w for w in graph.leaves if w.name in self._stored and w.dtype.interleave > 1]
        for done, w in enumerate(weights):
            if progress:
                progress("repacking rows", done, len(weights))
            self._weight(w, HOST)
            if isinstance(self.setup.weights, StoredWeights):
                self.setup.weights.release(w.name)
        if progress and weights:
            progress("repacking rows", len(weights), len(weights))

    def _converted(self, raw: Raw, stored: DType, tensor: Tensor) -> Raw:
        shape = tuple(map(int, tensor.shape))
        if tensor.dtype.interleave > 1:
            return repack(raw, tensor.dtype, shape, self.setup.n_threads)
        return tensor.dtype.quantize(stored.dequantize(raw, shape))

    def in_kernel_types(
        self,
        graph: Graph,
        home: Callable[[Tensor], str] = lambda leaf: HOST,
        repacked: Mapping[str, DType] = MappingProxyType({}),
    ) -> Graph:
        """The graph over leaves of types that their home's kernels read; others are converted on first use."""
        converted, stored = in_kernel_types(graph, self.devices, home, repacked)
        self._stored |= stored
        return converted

    def compile(self, plan: Graph | Schedule, progress: Progress | None = None) -> Executable:
        """A graph (all on the host) or a schedule, ready to run."""
        schedule = plan if isinstance(plan, Schedule) else whole(self.in_kernel_types(plan))
        self._convert(schedule.graph, progress)
        self._load(schedule, progress)
        items, results, issues = lowered(schedule, self.devices, self.leaf)
        addresses = self._addresses(items, results)
        streams, n_flags = in_streams(items, self._stream_of, addresses)
        addresses = replace(
            addresses, flags=self.devices[HOST].allocate(n_flags * FLAG_BYTES) if n_flags else None
        )
        timed = self._timed(progress)
        programs = {s: self._runner(s).pack(own, addresses, timed) for s, own in streams.items()}
        tags = tagged(streams, dict(zip(map(id, items), issues, strict=True)))
        return Executable(
            self.recorder, self.setup.poison, schedule, addresses, streams, programs, results, tags
        )

    def _timed(self, progress: Progress | None) -> Progress:
        """The same, which notes what is spent compiling."""
        began = 0

        def tell(what: str, done: int, total: int) -> None:
            nonlocal began
            if what == COMPILING and done == 0:
                began = perf_counter_ns()
            elif what == COMPILING and done == total:
                self.recorder.compiled(began)
            if progress:
                progress(what, done, total)

        return tell

    def _load(self, schedule: Schedule, progress: Progress | None) -> None:
        """Brings weights to the devices that read them; counts MB where that takes a while."""
        wanted = {
            self._key(source, split.device): (source, split.device)
            for split in schedule.splits
            if split.device != HOST
            for node in split.nodes
            for source in node.sources
            if source.kind == "weight"
        }
        missing = [both for key, both in wanted.items() if key not in self._memory]
        total, done = sum(w.type.nbytes for w, _ in missing) // 10**6, 0
        for weight, device in missing:
            self._weight(weight, device)
            done += weight.type.nbytes
            if progress and total:
                progress("loading weights, MB", min(done // 10**6, total), total)

    def _addresses(self, items: list[Item], results: list[Operand]) -> Addresses:
        plans = plan_arenas(items, [o.buffer for o in results])
        return Addresses(
            plans, {name: self._arena(name, max(plan.nbytes, 64)) for name, plan in plans.items()}
        )

    def _arena(self, name: str, nbytes: int) -> Memory:
        """Memory for an arena or a staging ring; executables run one after the other, and share the largest."""
        if name not in self._arenas or self._arenas[name].nbytes < nbytes:
            self._arenas[name] = self.devices[name.removesuffix(" staging")].allocate(nbytes)
        return self._arenas[name]

    def _stream_of(self, item: Item) -> tuple[str, str]:
        stream = self.devices[item.device].streams[item.work]
        return stream, HOST if stream == HOST else item.device

    def _runner(self, stream: str) -> Device:
        """The device whose stream it is."""
        return next(d for d in self.devices.values() if stream in d.streams.values())

    def abort(self, on: bool) -> None:
        """Makes a run in progress end early (called from another thread), or allows runs again."""
        for device in self.devices.values():
            device.abort(on)

    def close(self) -> None:
        """Gives back what devices hold."""
        self._memory.clear()
        self._arenas.clear()
        for device in self.devices.values():
            device.close()


def in_kernel_types(
    graph: Graph,
    devices: Mapping[str, Device],
    home: Callable[[Tensor], str],
    repacked: Mapping[str, DType] = MappingProxyType({}),
) -> tuple[Graph, dict[str, DType]]:
    """The graph over leaves of types that their home's kernels read, and the stored types of those that change.

    `repacked`: the interleaved types of weights that are to be repacked, by name.
    """
    stored: dict[str, DType] = {}

    def swap(leaf: Tensor) -> Tensor:
        if leaf.kind not in ("weight", "cache"):
            return leaf
        wanted = repacked.get(leaf.name) or devices[home(leaf)].kernel_type(leaf)
        if wanted == leaf.dtype:
            return leaf
        stored[leaf.name] = leaf.dtype
        return replace(leaf, type=TensorType(wanted, leaf.shape))

    return replace_leaves(graph, swap), stored


def lowered(
    schedule: Schedule, devices: Mapping[str, Device], leaf: Leaf
) -> tuple[list[Item], list[Operand], list[int]]:
    """Items of all devices in running order, the host's operands of the graph's outputs, and each item's issue."""
    items: list[Item] = []
    issues: list[int] = []
    copies = {c.tensor: c for c in schedule.copies}

    def operand(device: str, tensor: Tensor) -> Operand:
        if tensor.kind != "copy":
            return leaf(device, tensor)
        # An uploaded weight passes through the staging ring in the form that kernels read, which may be larger.
        staging = copies[tensor].is_weight
        nbytes = devices[device].weight_bytes(tensor.type) if staging else tensor.type.nbytes
        return dense(Buffer(tensor.name, nbytes, device=device, staging=staging), tensor.type)

    lows = {n: d.lowering(functools.partial(operand, n), items) for n, d in devices.items()}
    read_by = readers(schedule)
    for low in lows.values():
        low.readers = read_by
    for number, issue in enumerate(issue_order(schedule)):
        if isinstance(issue.work, Copy):
            items.append(_copy(issue.work, schedule, devices, lows))
        else:
            split = schedule.splits[issue.split]
            lows[split.device].lower(issue.work, schedule.index.get(issue.work, -1))
        issues += [number] * (len(items) - len(issues))  # a node may lower to several items, or to none
    return items, [lows[HOST].operand(t) for t in schedule.outputs], issues


def readers(schedule: Schedule) -> dict[Tensor, list[Tensor]]:
    """The readers of each tensor: nodes of splits, and copies of it for other devices."""
    found: dict[Tensor, list[Tensor]] = {}
    for node in (node for split in schedule.splits for node in split.nodes):
        for source in dict.fromkeys(node.sources):
            found.setdefault(source, []).append(node)
    for copy in schedule.copies:
        found.setdefault(schedule.placed.get(copy.source, copy.source), []).append(copy.tensor)
    return found


def _copy(copy: Copy, schedule: Schedule, devices: Mapping[str, Device], lows: Mapping[str, Low]) -> Item:
    source = lows[copy.from_device].operand(schedule.placed.get(copy.source, copy.source))
    result = lows[copy.to_device].operand(copy.tensor)
    ids = None if copy.ids is None else lows[HOST].operand(schedule.placed.get(copy.ids, copy.ids))
    device = copy.from_device if copy.to_device == HOST else copy.to_device
    return devices[device].copy(source, result, ids)
