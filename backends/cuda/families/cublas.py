"""Products of many tokens by cuBLASLt, where it is installed.

x is rounded to 16 bits, and weights of blocks are decoded to bf16 in front of the product: the library's product is
faster than one that decodes as it goes, which pays for the decoding from some number of tokens on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from graphsched.backends.cuda.families.decode import decode
from graphsched.backends.cuda.families.dense import aligned, row_stride
from graphsched.backends.cuda.families.gemm import Q8_HALVES
from graphsched.backends.cuda.families.quantize import rounded
from graphsched.backends.cuda.launch.call import Launched, Product
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

FLOATS: Final = ("f16", "bf16")
GEMM_FROM: Final = 9  # tokens on the tensor cores; fewer are mat-vecs
# tokens from which it pays, by estimate for cards of the Hopper kind; scales of half units make the own kernel slower
FLOATS_FROM, BLOCKS_FROM, HALVES_FROM = 64, 1024, 512
# bytes for decoded weights: all of most matrices, rows enough to fill a card of the largest
ROOM: Final = 128 << 20


@dataclass(frozen=True)
class Library:
    """How products with one x go from `least` tokens on; `room`: for decoded weights, None where they are floats."""

    kind: str
    least: float
    x: Operand
    room: Operand | None

    @property
    def args(self) -> tuple[Operand | Out, ...]:
        """What a launch reads and writes besides the matrix and the result."""
        return (self.x,) if self.room is None else (self.x, Out(self.room))

    def calls(self, at: At, matrix: Operand, result: Operand, tokens: int) -> Iterator[Launched]:
        """The product of `least` tokens or more with a matrix."""
        total, k = map(int, matrix.type.shape)
        x, w, y = at(self.x), at(matrix), at(result)
        if self.room is None:
            yield Product(self.kind, x, w, y, tokens, total, k, total)
            return
        room, step = at(self.room), self.room.type.numel // k // 64 * 64
        for first in range(0, total, step):
            rows = min(step, total - first)
            yield decode(self.kind, w, room, total, first, rows, k)
            yield Product("bf16", x, room, y + 4 * first, tokens, rows, k, total)


def library(low: Low, node: Tensor, kind: str) -> Library | None:
    """For a product with a whole matrix; None where there is no cuBLASLt, or never as many tokens as it takes."""
    w, tensor = node.sources
    rows, k = map(int, w.shape)
    is_float = kind in FLOATS
    least = tokens_from(low, node, kind)
    if least > int(node.shape[0]):
        return None
    x = halved(low, tensor, kind) if is_float else halved(low, tensor, "bf16", int(least))
    room = None
    if not is_float:
        held = min(ROOM // (2 * k), -(-rows // 64) * 64)
        room = low.scratch("decoded weights", TensorType(dtypes.BF16, (max(held, 64) * k,)))
    return Library(kind, least, x, room)


def tokens_from(low: Low, node: Tensor, kind: str) -> float:
    """Tokens from which a product with a whole matrix goes by the library; inf where it never does."""
    rows, k = map(int, node.sources[0].shape)
    if low.cublas is None or k % 8 or rows % 4:
        return inf
    least = low.cublas or _pays_from(kind)
    return least if least <= int(node.shape[0]) else inf


def _pays_from(kind: str) -> int:
    if kind in FLOATS:
        return FLOATS_FROM
    return HALVES_FROM if KERNEL_TYPE[kind] in Q8_HALVES else BLOCKS_FROM


def halved(low: Low, tensor: Tensor, kind: str, least: int = GEMM_FROM) -> Operand:
    """Activations in 16 bits from `least` tokens on, made once for all products that read them."""

    def round_rows() -> tuple[Operand, ...]:
        x = aligned(low, low.operand(tensor))
        half = low.scratch(f"{kind} activations", TensorType(dtypes.F16, x.type.shape))
        stride = row_stride(x)

        def make(at: At) -> list[Launched]:
            n, _, k = at.shape(x.type)
            if n < least:
                return []
            return [rounded(kind, at(x), at(half), n, k, stride)]

        low.launch(make, x, Out(half))
        return (half,)

    return low.shared((kind, tensor, least), round_rows)[0]
