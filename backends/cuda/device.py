"""A GPU as a device: memory, three streams, kernels compiled when a program first needs them."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from graphsched import env
from graphsched.backends.cpu.device import CpuDevice
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.launch import compiler
from graphsched.backends.cuda.launch.call import Call, Launched, Product
from graphsched.backends.cuda.launch.lowering import At, Launch, Low
from graphsched.backends.cuda.launch.weights import packed_bytes
from graphsched.backends.cuda.packing.pieces import as_it_is, packing
from graphsched.backends.cuda.packing.threads import pack
from graphsched.backends.cuda.stream import transfer
from graphsched.backends.cuda.stream.chain import can_overlap, chained
from graphsched.backends.cuda.stream.dispatch import Dispatcher
from graphsched.backends.cuda.stream.memory import Block, DeviceMemory, PinnedSpace, Raw
from graphsched.backends.cuda.stream.program import CudaProgram
from graphsched.backends.cuda.support import has_kernel, kernel_type
from graphsched.errors import OptionError
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.device import COMPILING, Device, Progress, Setup
from graphsched.run.operand import Addresses, Buffer, Item, Memory, Operand, Work
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType

WATCH_SECONDS = 0.02  # between two looks whether the device still works while the host waits for it
NO_UPLOAD = "-op -1,0 leaves weights of the host where they are"
LESS = "fewer layers on it with -ngl, experts on the host with -cmoe or -ncmoe N, or a smaller -c helps"


class CudaDevice:
    """One GPU of one session."""

    def __init__(self, name: str, setup: Setup, host: CpuDevice) -> None:
        self.name, self.setup, self._host = name, setup, host
        self.gpu = open_gpu(int(name.removeprefix("CUDA")))
        self.graphs = env.cuda_graphs()
        self.memory = DeviceMemory(name, self.gpu)
        self.streams: Mapping[Work, str] = MappingProxyType(
            {"compute": name, "up": f"{name} up", "down": f"{name} down"}
        )
        self.aborted = False
        self._streams = {work: driver.new_stream(self.gpu) for work in self.streams}
        self._programs: list[CudaProgram] = []
        self._running: set[CudaProgram] = set()
        self._repacked: dict[tuple[int, TensorType], Memory] = {}  # host weights as the device reads them
        self._watch: threading.Thread | None = None
        self.dispatcher = Dispatcher(self.gpu, self._failed) if waits(self.gpu) == "host" else None
        self._cublas: driver.Cublas | None = None
        self._closed = False

    def supports(self, node: Tensor) -> bool:
        """Whether there is a kernel for a node."""
        return has_kernel(node)

    def kernel_type(self, leaf: Tensor) -> DType:
        """The type in which kernels read a weight or cache."""
        return kernel_type(leaf)

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes, repacked."""
        return packed_bytes(type)

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory of the GPU. KernelError, with what helps, where it does not fit."""
        return self.memory.allocate(nbytes)

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """A copy; of a weight in the kernels' layout."""
        how = as_it_is(raw.size) if leaf is None else packing(leaf.type)
        what = "constants" if leaf is None else leaf.name
        return self.memory.adopt(raw, how, what, LESS)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> Low:
        """What lowers nodes of this device to `items`."""
        sms, fuses = self.gpu.multiprocessors, env.cuda_fusion()
        asked = env.cuda_cublas()  # refused if wrong, with a library or without
        cublas = asked if asked is not None and driver.cublas_version() else None
        return Low("cuda", leaf, items, self.adopt, 1, self.name, sms=sms, fuses=fuses, cublas=cublas)

    def copy(self, source: Operand, result: Operand, ids: Operand | None = None) -> Item:
        """An item that copies between this GPU and the host; of experts those that `ids` name."""
        if result.buffer.staging and source.buffer.device == HOST:
            return self._weight_copy(source, result, ids)
        block = source.buffer.memory.owner if source.buffer.memory else None
        if (
            isinstance(block, Block) and result.buffer.staging
        ):  # a weight that the host needs: it has its own bytes
            assert block.raw is not None
            memory = self._host.adopt(block.raw)
            host_weight = Operand(
                Buffer(source.buffer.name, memory.nbytes, memory), source.type, source.strides
            )
            return self._host.copy(host_weight, result, ids)
        return transfer.transfer(source, result, self.name, HOST)

    def _weight_copy(self, source: Operand, result: Operand, ids: Operand | None) -> Item:
        """Uploads come from page-locked memory that holds the weight as the kernels read it, made on first use."""
        memory = self._repacked_weight(source)
        whole = TensorType(dtypes.I8, (memory.nbytes,))
        repacked = Operand(Buffer(source.buffer.name, memory.nbytes, memory), source.type, source.strides)
        if ids is not None:
            nbytes = memory.nbytes // int(source.type.shape[0])
            return transfer.experts(repacked, result, ids, nbytes, self.name)
        repacked, result = (Operand(o.buffer, whole, (1,), o.offset) for o in (repacked, result))
        return transfer.transfer(repacked, result, self.name, HOST)

    def _repacked_weight(self, source: Operand) -> Memory:
        held = source.buffer.memory
        assert held is not None, f"{source.buffer.name} is no weight"
        key = held.address, source.type
        if key not in self._repacked:
            how = packing(source.type)
            self._repacked[key] = PinnedSpace().allocate(how.nbytes, source.buffer.name, NO_UPLOAD)
            pack(how, held.bytes, self._repacked[key].bytes)
        return self._repacked[key]

    def pack(
        self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None
    ) -> CudaProgram:
        """A program of one stream, whose kernels are compiled; operands at `addresses`."""
        driver.use(self.gpu)
        self.memory.settle()
        self._compile(items, At(addresses, {}, 0), progress)
        works = {i.work for i in items if not hasattr(i, "flag")}
        (work,) = works or {"compute"}
        if env.cuda_overlap() and can_overlap(self.gpu.arch):
            items = chained(items)
        program = CudaProgram(self, self.streams[work], self._streams[work], items, addresses)
        self._programs.append(program)
        if self.dispatcher is not None:
            self.dispatcher.knows(program.bounds)
        return program

    def _compile(self, items: Sequence[Item], full: At, progress: Progress | None) -> None:
        """Compiles (or loads from disk) what a run at full capacity needs; the rest follows on first use."""
        calls = (call for item in items if isinstance(item, Launch) for call in item.make(full))
        wanted = list(dict.fromkeys((c.stem, c.types) for c in calls if isinstance(c, Call)))
        for done, (stem, types) in enumerate(wanted):
            if progress:
                progress(COMPILING, done, len(wanted))
            kernels(self.gpu.ordinal, stem, types)
        if progress and wanted:
            progress(COMPILING, len(wanted), len(wanted))

    def prepared(self, call: Launched) -> Callable[[Any], None]:
        """A launch with its kernel loaded and its arguments packed."""
        if isinstance(call, Product):
            return self._library().prepared(
                call.kind, call.x, call.w, call.y, (call.m, call.n, call.k), call.y_stride
            )
        kernel = kernels(self.gpu.ordinal, call.stem, call.types)[call.kernel]
        driver.allow_shared(kernel, call.shared)
        return driver.prepared(kernel, call.grid, call.block, call.args, call.shared, call.overlaps)

    def _library(self) -> driver.Cublas:
        if self._cublas is None:
            room = self.memory.allocate(driver.CUBLAS_ROOM, "cuBLASLt", "GRAPHSCHED_CUDA_CUBLAS=0 needs none")
            self._cublas = driver.Cublas(room.address)
        return self._cublas

    def started(self, program: CudaProgram) -> None:
        """While programs run somebody looks whether the device failed: the host would wait for its flags for ever."""
        self._running.add(program)
        if self._watch is None:
            self._watch = threading.Thread(target=self._look, name=f"{self.name} watch", daemon=True)
            self._watch.start()

    def ended(self, program: CudaProgram) -> None:
        """Nobody waits for a program any more."""
        self._running.discard(program)

    def _look(self) -> None:
        driver.use(self.gpu)
        while not self._closed:
            time.sleep(WATCH_SECONDS)
            if any(driver.failed(p.stream) for p in tuple(self._running)):  # never one that is captured
                self._failed()

    def _failed(self) -> None:
        """Ends what waits for this device: the host's program, and streams of other devices."""
        self._host.abort(True)
        for program in tuple(self._running):
            program.release()

    def abort(self, on: bool) -> None:
        """Lets everything that waits for this device go on, or allows runs again."""
        self.aborted = on
        for program in tuple(self._running) if on else ():
            program.release()

    def close(self) -> None:
        """Waits for its threads, and gives programs, streams and memory back."""
        self._closed = True
        if self._watch is not None:
            self._watch.join()
        if self.dispatcher is not None:
            self.dispatcher.close()
        driver.use(self.gpu)
        for program in self._programs:
            program.close()
        for stream in self._streams.values():
            stream.close()
        self._programs.clear()
        self._repacked.clear()
        if self._cublas is not None:
            self._cublas.close()
        self.memory.close()
        driver.free_unused()


def waits(gpu: driver.Gpu) -> str:
    """How the streams of a device wait for others: "stream", by themselves, or "host", which queues them in parts."""
    asked, can = env.cuda_waits(), driver.has_stream_memory_operations(gpu)
    if asked == "stream" and not can:
        raise OptionError(
            f"GRAPHSCHED_CUDA_WAITS is stream, and CUDA{gpu.ordinal} has no stream memory operations"
        )
    return asked or ("stream" if can else "host")


@cache
def open_gpu(ordinal: int) -> driver.Gpu:
    """A GPU by its number, opened once a process. OptionError with the reason why it cannot be used."""
    if reason := driver.probe():
        raise OptionError(f"CUDA{ordinal} cannot be used: {reason}")
    if ordinal >= driver.device_count():
        devices = ", ".join(f"CUDA{i}" for i in range(driver.device_count()))
        raise OptionError(f"no device CUDA{ordinal}; there are {devices}, none, or sim:NAME")
    return driver.open_gpu(ordinal)


@cache
def kernels(ordinal: int, stem: str, types: tuple[str, ...]) -> dict[str, driver.Kernel]:
    """Kernels of a file for a device, compiled or read from disk, kept for the process."""
    gpu = open_gpu(ordinal)
    module = compiler.build(compiler.assemble(stem, types), gpu.arch)
    return driver.load_kernels(gpu, module.cubin, module.signatures)


def open_device(name: str, setup: Setup, host: Device) -> Device:
    """The GPU called `name` ("CUDA0"), beside the CPU backend. OptionError if it cannot be used."""
    assert isinstance(host, CpuDevice), "GPUs work beside the CPU backend"
    if not isinstance(host.spaces[HOST], PinnedSpace):
        host.spaces[HOST] = PinnedSpace()
    return CudaDevice(name, setup, host)
