"""Activations as products read them, made once for all that do: floats, int8 blocks, int8 rows.

A lowering of a product says in which form it reads its x (`reads_x`). So a norm knows before it is launched what is
wanted of it, and its kernel writes that.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final, TypeVar

from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.families.dense import aligned, row_stride
from graphsched.backends.cuda.families.quantize import quantize
from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.lowering import At, Low, same_rows
from graphsched.graph.opdef import lowering_for
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out

AS_FLOATS: Final = "floats"
INT8_BLOCKS: Final = "int8 blocks"  # of 32, each with its scale, and its scale times its sum
INT8_ROWS: Final = "int8 rows"  # each with its scale and its sum, which w2a8.cu takes

Forms = Mapping[str, float]  # form -> the number of tokens from which it is not read any more
Reads = Callable[[Low, Tensor], Forms]
Emit = TypeVar("Emit", bound=Callable[..., None])
_READS: Final[dict[Callable[..., None], Reads]] = {}


def reads_x(how: Reads) -> Callable[[Emit], Emit]:
    """Declares of a lowering in which forms it reads the operand x of a node; any other operand is read as floats."""

    def declare(emit: Emit) -> Emit:
        _READS[emit] = how
        return emit

    return declare


def always(form: str) -> Reads:
    """Of a lowering that reads x in one form for any number of tokens."""
    return lambda low, node: {form: inf}


def forms_read(low: Low, tensor: Tensor) -> Forms:
    """The forms in which the readers of a tensor read it; empty if none is known."""
    forms: dict[str, float] = {}
    for reader in low.readers.get(tensor, ()):
        for form, until in _read_by(low, reader, tensor).items():
            forms[form] = max(forms.get(form, 0.0), until)
    return forms


def _read_by(low: Low, reader: Tensor, tensor: Tensor) -> Forms:
    if reader.kind == "node" and same_rows(reader) is not reader:
        return forms_read(low, reader)
    row = lowering_for("cuda", reader) if reader.kind == "node" else None
    how = _READS.get(row.emit) if row else None
    if how is None or [_name(reader, i) for i, s in enumerate(reader.sources) if s is tensor] != ["x"]:
        return {AS_FLOATS: inf}
    return how(low, reader)


def _name(node: Tensor, i: int) -> str:
    return node.declaration.operands[i]


def int8_blocks(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """q int8[tokens, k] and their scales float2[tokens, k / 32]."""
    tensor = same_rows(tensor)

    def quantized() -> tuple[Operand, ...]:
        x, (q, ds) = aligned(low, low.operand(tensor)), new_int8_blocks(low, tensor)
        stride, until = row_stride(x), forms_read(low, tensor).get(INT8_BLOCKS, inf)

        def make(at: At) -> list[Call]:
            tokens, heads, k = at.shape(x.type)
            return [] if tokens >= until else [quantize(at(x), at(q), at(ds), tokens * heads, k, stride)]

        low.launch(make, x, Out(q), Out(ds))
        return q, ds

    q, ds = low.shared((INT8_BLOCKS, tensor), quantized)
    return q, ds


def new_int8_blocks(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """Memory for the int8 blocks of a tensor and their scales."""
    n = tensor.type.numel
    return low.bytes(INT8_BLOCKS, n), low.floats("scales of blocks", n // 16)


def int8_rows(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """q int8[tokens, padded(k)] and (scale, sum) of each row."""
    tensor = same_rows(tensor)

    def quantized() -> tuple[Operand, ...]:
        x, (q, ds) = aligned(low, low.operand(tensor)), new_int8_rows(low, tensor)
        stride = row_stride(x)

        def make(at: At) -> list[Call]:
            tokens, heads, k = at.shape(x.type)
            return [w2a8.quantize(at(x), None, at(q), at(ds), tokens * heads, k, stride)]

        low.launch(make, x, Out(q), Out(ds))
        return q, ds

    q, ds = low.shared((INT8_ROWS, tensor), quantized)
    return q, ds


def new_int8_rows(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """Memory for the int8 rows of a tensor and their scales."""
    k = int(tensor.shape[-1])
    rows = tensor.type.numel // k
    return low.bytes(INT8_ROWS, rows * ternary_tiles.padded(k)), low.floats("scales of rows", rows, 2)
