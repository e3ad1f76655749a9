"""The host as a device: kernels compiled by Numba, weights where they are mapped, one packed program."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from graphsched.arch.stored import EMBEDDING
from graphsched.backends.cpu import elementwise, moe, movement, norm, rope, streams
from graphsched.backends.cpu.attention import flash as attention
from graphsched.backends.cpu.attention import indexer, soft_max, sparse
from graphsched.backends.cpu.attention import unfused as attention_unfused
from graphsched.backends.cpu.formats.rows import NATIVE, PRODUCT_TYPES
from graphsched.backends.cpu.language.compilation import compile_all
from graphsched.backends.cpu.matmul import lowering as matmul
from graphsched.backends.cpu.matmul import qkv
from graphsched.backends.cpu.program import pack as program
from graphsched.backends.cpu.program.address_space import HostSpace, Space
from graphsched.backends.cpu.program.layout import ABORT, ONE, RUN_WORDS
from graphsched.backends.cpu.program.lowering import Low, new_low
from graphsched.backends.cpu.program.pack import Step
from graphsched.backends.cpu.program.pool import POOL
from graphsched.backends.cpu.program.ring import Ring
from graphsched.backends.cpu.program.runner import CpuProgram
from graphsched.backends.cpu.program.transfer import copy_step
from graphsched.backends.cpu.recurrent import conv, delta, scan
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.device import COMPILING, Device, Progress, Raw, Setup
from graphsched.run.operand import Addresses, Item, Memory, Operand, Work
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType

FAMILIES = (
    attention,
    attention_unfused,
    conv,
    delta,
    soft_max,
    elementwise,
    indexer,
    matmul,
    moe,
    movement,
    norm,
    qkv,
    rope,
    scan,
    sparse,
    streams,
)  # importing them attaches their lowerings


class CpuDevice:
    """Runs steps of its own, and those of simulated devices that have no stream."""

    def __init__(self, setup: Setup) -> None:
        self.name, self.setup = HOST, setup
        self.streams: Mapping[Work, str] = MappingProxyType({"compute": HOST, "up": HOST, "down": HOST})
        self.spaces: dict[str, Space] = {HOST: HostSpace()}  # of all devices that the host's program serves
        self.run_block = np.zeros(RUN_WORDS, np.int64)
        self.run_block[ONE] = 1
        self.ring = Ring()  # of all programs of the session
        POOL.pins = setup.pins

    def supports(self, node: Tensor) -> bool:
        """The host also runs numpy references."""
        return True

    def kernel_type(self, leaf: Tensor) -> DType:
        """Weights without kernels are read from a float32 copy, I2_S from an IQ2_BN copy; norms and biases as F32."""
        known = (
            NATIVE if leaf.name == EMBEDDING else PRODUCT_TYPES
        )  # GET_ROWS reads the embedding, row by row
        if leaf.kind != "weight" or (leaf.dtype in known and len(leaf.shape) > 1):
            return leaf.dtype
        # One scale behind all rows, which a kernel that is handed rows cannot find: as codes with a scale per row.
        return dtypes.IQ2_BN if leaf.dtype == dtypes.I2_S and len(leaf.shape) == 2 else dtypes.F32

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes here: those of its type."""
        return type.nbytes

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory of the host, at a multiple of 64 bytes."""
        return self.spaces[HOST].allocate(nbytes)

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """Bytes of the host, where they are."""
        return self.spaces[HOST].adopt(raw)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> Low:
        """A `Low` that adds steps of the CPU's kernels to `items`."""
        return new_low(leaf, items, self.adopt, self.setup, self.name)

    def copy(self, source: Operand, result: Operand, ids: Operand | None = None) -> Step:
        """A step that copies a tensor between devices, of experts those that `ids` name."""
        return copy_step(source, result, self.name, ids)

    def pack(
        self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None
    ) -> CpuProgram:
        """The program of these items; progress tells of kernels that are compiled."""
        compile_kernels(items, progress)
        n_threads = self.setup.n_threads
        packed = program.pack(items, addresses, self.spaces, n_threads)
        return CpuProgram(packed, self.run_block, self.ring, n_threads)

    def abort(self, on: bool) -> None:
        """Makes runs skip their kernels, until it is taken back."""
        self.run_block[ABORT] = int(on)

    def close(self) -> None:
        """Nothing to give back."""
        if POOL.pins is self.setup.pins:
            POOL.pins = ()


def compile_kernels(items: Sequence[Item], progress: Progress | None) -> None:
    """Compiles every kernel that the steps need and that is not kept on disk; loads the others."""
    kernels = list(dict.fromkeys(item.kernel for item in items if isinstance(item, Step)))
    missing = [kernel for kernel in kernels if not kernel.is_there]
    tell = progress or _nobody
    if missing:
        compile_all(missing, lambda done, total: tell(COMPILING, done, total), __name__)
    for kernel in kernels:
        _ = kernel.address
    tell("loading kernels", len(kernels), len(kernels))


def _nobody(what: str, done: int, total: int) -> None:
    """Hears of progress where nobody wants to."""


def open_host(setup: Setup) -> Device:
    """The CPU with its kernels, for so many threads."""
    return CpuDevice(setup)
