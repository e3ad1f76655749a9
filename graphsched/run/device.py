"""The contract of a device, and how one is opened by name.

A schedule's nodes become items (`lowering`), copies become items (`copy`), the items of a stream become a program
(`pack`), programs run (`launch`). Memory is planned in between, by the core.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.affinity import Pins
from graphsched.run.lowering import Low
from graphsched.run.operand import Addresses, Item, Memory, Operand, Work
from graphsched.types.devices import HOST, gpu_number, meant
from graphsched.types.dtypes import DType

Raw = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # what, done, total
COMPILING: Final = "compiling kernels"  # what programs are told that is; runs report its time apart

KNOWN = ("cpu", "reference")
INTERNAL = ("null",)  # plans, and does not compute


@dataclass(frozen=True)
class StepTime:
    """One item of a program: its kernel from `begun` to `done`, then waiting for other threads until `released`.

    Seconds of `time.perf_counter`. node: number in the schedule's graph, -1 for copies and flags. thread: which one of
    the host's threads, whose times are in the order of the items that were packed.
    """

    kernel: str
    node: int
    device: str
    begun: float
    done: float
    released: float
    thread: int = 0


class Program(Protocol):
    """The items of one stream, packed to run."""

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        """Starts it with actual lengths; the host's program has run when this returns.

        trace: OFF, ON or THREADS of graphsched.run.trace. Returns the mark by which `times` finds this run.
        """

    def wait(self) -> None:
        """Returns when all of it has run."""

    def times(self, mark: int) -> list[StepTime]:
        """When each item of a run ran, in the order packed; empty if it was not traced, or is overwritten."""

    def lines(self) -> list[str]:
        """A line for each step and kernel, for GRAPHSCHED_DEBUG=4."""


class Device(Protocol):
    """One memory, and the streams that work on it; only its own items may name its memory, but for copies.

    streams: for each kind of work the stream that does it, "CPU" where the host's program does.
    """

    name: str
    streams: Mapping[Work, str]

    def supports(self, node: Tensor) -> bool:
        """Whether the device has a kernel for a node, by the lowerings attached to its op."""

    def kernel_type(self, leaf: Tensor) -> DType:
        """The type in which its kernels read a weight or cache; the stored one where they can."""

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes as its kernels read it."""

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory of this device."""

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """Memory with the host's bytes: these themselves on the host, a copy elsewhere. leaf: the weight, if any."""

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> Low:
        """The lowerer of this device, which appends items to `items`."""

    def copy(self, source: Operand, result: Operand, ids: Operand | None = None) -> Item:
        """An item that copies between this device and another; with `ids`, only the experts that they name."""

    def pack(self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None) -> Program:
        """A program of the items of one stream."""

    def abort(self, on: bool) -> None:
        """Makes a run in progress end early (called from another thread), or allows runs again."""

    def close(self) -> None:
        """Frees memory that Python's garbage collector does not."""


@dataclass(frozen=True)
class Setup:
    """What devices are opened over.

    weights: raw bytes by tensor name. capacities: the largest length of each extent, which sizes inputs and caches.
    devices: names of the devices besides the host. poison: fill memory with NaN before each run, so that a missing copy
    shows. streams: simulated devices run streams of their own, each in a thread, instead of in the host's program.
    trace: how much runs record, OFF, ON or THREADS of graphsched.run.trace. pins: the CPUs of each thread, () for any.
    deterministic: no kernel whose bits for a token depend on how many others there are.
    """

    weights: Mapping[str, Raw]
    capacities: Mapping[str, int] = field(default_factory=dict)
    n_threads: int = 1
    devices: tuple[str, ...] = ()
    poison: bool = False
    streams: bool = False
    trace: int = 1
    pins: Pins = ()
    deterministic: bool = False


def open_devices(backend: str, setup: Setup) -> dict[str, Device]:
    """The host, computing on a backend, and the devices that the setup names; modules are imported on use."""
    if backend not in KNOWN + INTERNAL:
        raise OptionError(f"no backend {backend!r}; there are {', '.join(KNOWN)}")
    host = _module(backend).open_host(setup)
    devices: dict[str, Device] = {HOST: host}
    for name in setup.devices:
        family = "null" if backend == "null" else name.rstrip("0123456789").lower()
        devices[name] = _module(family).open_device(name, setup, host)
    return devices


def device_names(specs: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the devices that --device asks for: CUDA0, ... as they are, sim0, ... in order, none for `none`.

    CUDA0, ... beside a simulated machine are those of its devices that are used, in their order. OptionError for a name
    that is given twice, and for a device or machine that there is not.
    """
    simulated = tuple(f"sim{i}" for i in range(sum(map(_module("sim").n_devices, machines(specs)))))
    chosen = [spec for spec in specs if is_gpu(spec)]
    if simulated and chosen:
        found = [_of_machine(spec, simulated) for spec in chosen]
    else:
        found = [*(f"CUDA{gpu_number(spec)}" for spec in chosen), *simulated]
    twice = next((n for n in found if found.count(n) > 1), None)
    if twice:
        raise OptionError(f"names {twice} twice", "devices")
    return tuple(found)


def _of_machine(spec: str, simulated: Sequence[str]) -> str:
    if (device := meant(spec, simulated)) is None:
        raise OptionError(f"is {spec}, the simulated devices are {', '.join(simulated)}", "devices")
    return device


def machines(specs: Sequence[str]) -> tuple[str, ...]:
    """What --device says about simulated machines."""
    return tuple(spec for spec in specs if not is_gpu(spec) and spec.strip().lower() != "none")


def is_gpu(name: str) -> bool:
    """Whether a device of --device is a real one, as CUDA0 or ROCm0, or by that name a simulated one."""
    return gpu_number(name) is not None


def is_simulated(name: str) -> bool:
    """Whether a device is a simulated one, as sim0: its kernels run on this machine's CPU."""
    return name.startswith("sim")


def _module(name: str) -> "_Backend":
    return importlib.import_module(f"graphsched.backends.{name}")


class _Backend(Protocol):
    def open_host(self, setup: Setup) -> Device: ...
    def open_device(self, name: str, setup: Setup, host: Device) -> Device: ...
    def n_devices(self, spec: str) -> int: ...  # of `sim` only: those that a machine has


def gpu_reason() -> str | None:
    """Why no GPU can be used, in one sentence, or None when one can."""
    driver = importlib.import_module("graphsched.backends.cuda.driver")
    reason: str | None = driver.probe()
    return reason


@dataclass(frozen=True)
class GpuFacts:
    """What the system tells about a GPU before it is used; `link` is empty where it does not."""

    name: str  # CUDA0
    model: str
    memory: int  # bytes
    free: int
    architecture: str  # sm_90
    multiprocessors: int
    copy_engines: int
    bus: str  # 0000:01:00.0
    link: str  # 16.0 GT/s PCIe x16


def gpus() -> list[GpuFacts]:
    """The GPUs of this machine, none where `gpu_reason` has one."""
    if gpu_reason():
        return []
    found: list[GpuFacts] = importlib.import_module("graphsched.backends.cuda.facts").gpus()
    return found


def versions() -> dict[str, str]:
    """Versions of the packages and the driver under the GPU backend; the driver's is the newest CUDA it supports."""
    found: dict[str, str] = importlib.import_module("graphsched.backends.cuda.facts").versions()
    return found


def cpu_facts() -> tuple[str, list[str]]:
    """The CPU that kernels are compiled for, and what of its features they use."""
    target = importlib.import_module("graphsched.backends.cpu.language.target")
    return target.name(), sorted(target.features() & target.USED)
