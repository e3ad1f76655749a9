"""Cases derived from a case of the op table: the same numbers in other layouts, and a single row of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.graph import ops
from graphsched.graph.opdef import WEIGHT, Case, OpDef
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes

POISON = 0xFF  # every byte around a view: NaN in float types and in most scales, -1 in integers
MARGIN = 3  # elements in front of a view and behind it, for types without blocks

Raw = NDArray[np.uint8]
# A leaf with the same numbers in another layout, what its memory holds, and the view of it that the op reads.
Laid = tuple[Tensor, Raw, Tensor]


def alike(definition: OpDef[Any], case: Case) -> tuple[object, ...]:
    """What cases share whose weights read the other operands in one form: blocks of one size, or rows with a scale."""
    pairs = list(zip(definition.operands, case.types, strict=False))
    weights = [t for name, t in pairs if definition.roles.get(name) == WEIGHT]
    forms = [(t.shape, t.dtype.block, t.dtype.row_header > 0, t.dtype.interleave > 1) for t in weights]
    return definition.name, str(_leaves(definition, case)), str(forms), str(case.attrs), str(case.ints)


def layouts(definition: OpDef[Any], case: Case) -> list[str]:
    """The names of layouts that some operand of a case can take."""
    return [name for name, lay in LAYOUTS.items() if any(map(_accepts(lay), _leaves(definition, case)))]


def laid(
    name: str, definition: OpDef[Any], tensors: Sequence[Tensor], raw: Mapping[str, Raw]
) -> tuple[list[Tensor], dict[str, Raw], list[Tensor]]:
    """Leaves, their bytes by name, and the operands over them: each operand that can take it has the layout."""
    lay, leaves, held, operands = LAYOUTS[name], list[Tensor](), dict[str, Raw](), list[Tensor]()
    for operand, tensor in zip(definition.operands, tensors, strict=False):
        made = lay(tensor, raw[tensor.name]) if _is_free(definition, operand) else None
        leaf, held[tensor.name], view = made or (tensor, raw[tensor.name], tensor)
        leaves.append(leaf)
        operands.append(view)
    return leaves, held, operands


def parts(tensor: Tensor, raw: Raw) -> Laid | None:
    """Rows that are parts of wider rows."""
    t, n = tensor.type, tensor.shape[-1]
    if t.dtype.interleave > 1 or t.dtype.row_header or t.dtype.tail:
        return None
    margin = t.dtype.block if t.dtype.block > 1 else MARGIN
    wide = TensorType(t.dtype, (*t.shape[:-1], n + 2 * margin))
    first, length = t.dtype.row_bytes(margin), t.dtype.row_bytes(n)
    held = np.full(
        (wide.nbytes // t.dtype.row_bytes(n + 2 * margin), t.dtype.row_bytes(n + 2 * margin)),
        POISON,
        np.uint8,
    )
    held[:, first : first + length] = raw.reshape(-1, length)
    leaf = replace(tensor, type=wide)
    return leaf, held.reshape(-1), ops.view(leaf, start=margin, stop=margin + n)


def swapped(tensor: Tensor, raw: Raw) -> Laid | None:
    """Heads in front of tokens: rows are whole, and in another order."""
    if len(tensor.shape) != 3 or tensor.dtype.interleave > 1:
        return None
    tokens, heads, _ = tensor.shape
    held = raw.reshape(tokens, heads, -1).swapaxes(0, 1)
    leaf = replace(tensor, type=TensorType(tensor.dtype, (heads, tokens, tensor.shape[2])))
    return leaf, np.ascontiguousarray(held).reshape(-1), ops.permute(leaf, axes=(1, 0, 2))


def scattered(tensor: Tensor, raw: Raw) -> Laid | None:
    """Columns in front of rows: elements of a row are apart."""
    if len(tensor.shape) < 2 or tensor.dtype.block > 1:
        return None
    *outer, rows, n = tensor.shape
    held = raw.reshape(*outer, rows, n, tensor.dtype.nbytes).swapaxes(-2, -3)
    leaf = replace(tensor, type=TensorType(tensor.dtype, (*outer, n, rows)))
    axes = (*range(len(outer)), len(outer) + 1, len(outer))
    return leaf, np.ascontiguousarray(held).reshape(-1), ops.permute(leaf, axes=axes)


def dying(tensor: Tensor, raw: Raw) -> Laid | None:
    """The result of a node that nobody else reads: the op may write into its memory."""
    return (tensor, raw, ops.scale(tensor, by=1.0)) if tensor.dtype == dtypes.F32 else None


LAYOUTS: dict[str, Callable[[Tensor, Raw], Laid | None]] = {
    "parts": parts,
    "swapped": swapped,
    "scattered": scattered,
    "dying": dying,
}


def _leaves(definition: OpDef[Any], case: Case) -> list[TensorType]:
    pairs = zip(definition.operands, case.types, strict=False)
    return [t for name, t in pairs if _is_free(definition, name)]


def _is_free(definition: OpDef[Any], operand: str) -> bool:
    """Whether an operand can lie in any layout: a weight, and state that the op updates, are as they are."""
    return definition.roles.get(operand) != WEIGHT and operand != definition.traits.updates


def _accepts(lay: Callable[[Tensor, Raw], Laid | None]) -> Callable[[TensorType], bool]:
    return lambda type: lay(Tensor(type, kind="input", name="x"), np.zeros(type.nbytes, np.uint8)) is not None


def one_row(definition: OpDef[Any], case: Case) -> Case | None:
    """The case with the first row of whatever has as many rows as the result; None where there is no such case."""
    leaves = [Tensor(t, kind="input", name=f"{i}") for i, t in enumerate(case.types)]
    node = definition(*leaves, **case.attrs)
    if node.shape[0] == 1 or not definition.rowwise(node):
        return None
    roles = [definition.roles.get(name) for name, _ in zip(definition.operands, case.types, strict=False)]
    types = tuple(_first(t, node.shape[0], role) for t, role in zip(case.types, roles, strict=True))
    attrs = {k: (1, *v[1:]) if k == "shape" else v for k, v in case.attrs.items()}
    return Case(types, attrs, case.ints, case.tolerance)


def _first(type: TensorType, n: int, role: object) -> TensorType:
    is_weight = role == WEIGHT or (len(type.shape) == 1 and type.dtype != dtypes.I32)
    return type if is_weight or type.shape[0] != n else TensorType(type.dtype, (1, *type.shape[1:]))
