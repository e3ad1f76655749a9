"""Lowering on a GPU: an item is launches over symbolic operands, made when addresses and lengths are known."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from graphsched.backends.cuda.launch.call import Launched
from graphsched.graph import ops
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, length_word
from graphsched.run import lowering
from graphsched.run.operand import Addresses, Operand, Out, Work
from graphsched.types import dtypes
from graphsched.types.extents import EXTENTS, N_OUTPUTS, N_TOKENS

FIXED = (N_TOKENS, N_OUTPUTS)  # those that say how much is launched, not how much a kernel looks at


@dataclass
class At:
    """Addresses and lengths of one run; notes which lengths were asked for."""

    addresses: Addresses
    lengths: Mapping[str, int]
    words: int  # the address of the lengths on the device
    asked: set[str] = field(default_factory=set)
    behind_kernel: bool = False  # whether what was queued last is one; for chain.py
    apart: bool = False  # no kernel may overlap: an event stands behind each

    def __call__(self, operand: Operand) -> int:
        return self.addresses.address(operand)

    def n(self, dim: int) -> int:
        """The actual length of a dimension; its capacity where no lengths are given, and all cells of a pool."""
        if not _is_length(dim):
            return int(dim)
        self.asked.add(dim.word)
        return self.lengths.get(dim.word, int(dim))

    def word(self, dim: Extent) -> int:
        """Where a kernel finds the actual length of a dimension."""
        return self.words + 4 * EXTENTS.index(dim.word)

    def shape(self, type: TensorType) -> tuple[int, int, int]:
        """(tokens, heads, k)."""
        tokens, heads, k = three(type)
        return self.n(tokens), heads, k


Make = Callable[[At], Iterable[Launched]]


@dataclass(frozen=True, eq=False)
class Launch:
    """Kernels of one node, launched one after the other."""

    make: Make
    args: tuple[Operand | Out, ...]  # what they read and write
    node: int = -1
    device: str = ""
    work: Work = "compute"

    def reads(self) -> list[Operand]:
        """Operands that its kernels read."""
        return [a for a in self.args if isinstance(a, Operand)]

    def writes(self) -> list[Operand]:
        """Operands that its kernels write."""
        return [a.operand for a in self.args if isinstance(a, Out)]


@dataclass
class Low(lowering.Low):
    """Lowers nodes to launches.

    sms: multiprocessors of the device. cublas: tokens from which products go by cuBLASLt, 0 as cublas.py has it, None
    for never. fuses: a norm writes the int8 that products read; else each form of it takes a launch.
    """

    sms: int = 132
    fuses: bool = True
    cublas: int | None = None

    def launch(self, make: Make, *args: Operand | Out) -> None:
        """Adds a launch of the node that is being lowered."""
        self.items.append(Launch(make, args, self._node, self.device))

    def dense(self, operand: Operand) -> Operand:
        """The operand as it is: the lowerings here ask for `in_rows`, `aligned` or `contiguous` themselves."""
        return operand

    def floats(self, name: str, *shape: int) -> Operand:
        """Memory of a node for float32."""
        return self.scratch(name, f32(*shape))

    def bytes(self, name: str, n: int) -> Operand:
        """Memory of a node for n bytes."""
        return self.scratch(name, TensorType(dtypes.I8, (n,)))

    def length(self, dim: int) -> Callable[[At], int]:
        """Where kernels find a length that may be fixed."""
        if _is_length(dim):
            return lambda at: at.word(dim)
        fixed = self.constant(np.array([dim], np.int32))
        return lambda at: at(fixed)


def _is_length(dim: int) -> TypeGuard[Extent]:
    """Whether a dimension has an actual length; any cell of a pool may be read."""
    return bool(length_word(dim))


def three(type: TensorType) -> tuple[int, int, int]:
    """A shape as (tokens, heads, k); the first may be an extent."""
    match type.shape:
        case (tokens, heads, k):
            return tokens, int(heads), int(k)
        case (tokens, k):
            return tokens, 1, int(k)
    return 1, 1, type.numel


def strides(x: Operand, item: int = 4) -> tuple[int, int]:
    """Elements from token to token and from head to head; 0 where there is one only."""
    s = [n // item if int(d) > 1 else 0 for n, d in zip(x.strides, x.type.shape, strict=True)]
    return (0, 0) if len(s) < 2 else (s[0], s[1] if len(s) == 3 else 0)


def same_rows(tensor: Tensor) -> Tensor:
    """The tensor with the same rows in which reshapes found them."""
    while (
        tensor.kind == "node" and tensor.opdef is ops.reshape and _width(tensor) == _width(tensor.sources[0])
    ):
        tensor = tensor.sources[0]
    return tensor


def _width(tensor: Tensor) -> int:
    return int(tensor.shape[-1]) if tensor.shape else 0
