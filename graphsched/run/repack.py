"""Run-time repacking (-rtr): rows of host weights interleaved in groups of 4 or 8, byte for byte.

A vector then has a lane per row, and single tokens read memory faster. Layouts are those of ik_llama.cpp's
row-interleaved types, as `layouts.py` reads them. A repacked weight is not offloadable.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType

Bytes = NDArray[Any]  # of uint8


def _apart(groups: Bytes, r: int, size: int) -> Bytes:
    """[G, R, B, size] blocks of R rows -> [G, B, R, size]"""
    return groups.reshape(groups.shape[0], r, -1, size).swapaxes(1, 2)


def _q8_0_r8(groups: Bytes) -> Bytes:
    b = _apart(groups, 8, 34)
    q = b[..., 2:].reshape(*b.shape[:2], 8, 2, 4, 4).transpose(0, 1, 3, 4, 2, 5)  # [G, B, half, l, R, i]
    return _concat(b[..., :2], q)


def _q4_0_r8(groups: Bytes) -> Bytes:
    b = _apart(groups, 8, 18)
    q = b[..., 2:].reshape(*b.shape[:2], 8, 4, 4).swapaxes(2, 3)  # [G, B, l, R, i]
    return _concat(b[..., :2], q)


def _iq4_nl_r4(groups: Bytes) -> Bytes:
    """Weight 16 s + 8 h + 4 a + i of row R goes to half-byte h of byte 16 (2 a + s) + 4 R + i."""
    b = _apart(groups, 4, 18)
    codes = np.stack([b[..., 2:] & 15, b[..., 2:] >> 4], axis=-2)  # [G, B, R, s, 16]
    q = codes.reshape(*b.shape[:2], 4, 2, 2, 2, 4).transpose(0, 1, 4, 5, 3, 2, 6)  # [G, B, h, a, s, R, i]
    return _concat(b[..., :2], q[:, :, 0] | q[:, :, 1] << np.uint8(4))


def _concat(scales: Bytes, codes: Bytes) -> Bytes:
    """Scales of all rows, then their codes, block by block: [G, bytes of a group]."""
    scales_and_codes = [x.reshape(*x.shape[:2], -1) for x in (scales, codes)]
    return np.concatenate(scales_and_codes, axis=-1).reshape(scales.shape[0], -1)


_REPACKERS: Final[Mapping[str, Callable[[Bytes], Bytes]]] = {
    "Q4_0_R8": _q4_0_r8,
    "Q8_0_R8": _q8_0_r8,
    "IQ4_NL_R4": _iq4_nl_r4,
}
INTERLEAVED: Final[Mapping[str, DType]] = {
    name.rpartition("_R")[0]: dtypes.by_name(name) for name in _REPACKERS
}


def repack(
    raw: NDArray[np.uint8], type: DType, shape: tuple[int, ...], n_threads: int = 1
) -> NDArray[np.uint8]:
    """A weight's bytes with the rows of its plain type interleaved. Works group by group, so memory stays bounded."""
    group = type.interleave * type.row_bytes(shape[-1])
    groups, out = raw.reshape(-1, group), np.empty_like(raw).reshape(-1, group)
    step = max(1, (1 << 20) // group)  # a MiB at a time, so that temporary arrays stay in the cache

    def repack_groups(first: int) -> None:
        out[first : first + step] = _REPACKERS[type.name](groups[first : first + step])

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(repack_groups, range(0, len(groups), step)))
    return out.reshape(-1)


def repackable(
    graph: Graph, home: Callable[[Tensor], str], offloaded: Callable[[Tensor], bool]
) -> dict[str, DType]:
    """Names of host weights that only products read, none of them `offloaded`, and their interleaved types."""
    found: dict[str, DType] = {}
    others: set[str] = set()  # one reader that cannot read interleaved rows keeps a weight as it is
    for node in graph.nodes:
        matrices = node.operands(node.traits.product)
        for s in node.sources:
            if s.kind != "weight":
                continue
            type = INTERLEAVED.get(s.dtype.name)
            if (
                type
                and home(s) == HOST
                and any(s is m for m in matrices)
                and _reads_rows(node, s, type)
                and not offloaded(node)
            ):
                found[s.name] = type
            else:
                others.add(s.name)
    return {name: type for name, type in found.items() if name not in others}


def _reads_rows(product: Tensor, matrix: Tensor, type: DType) -> bool:
    """Whether a product takes all rows of a matrix, in whole groups."""
    whole = product.attrs.get("rows") is None and len(matrix.shape) > 1
    return whole and matrix.shape[-2] % type.interleave == 0
