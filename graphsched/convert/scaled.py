"""A checkpoint of quantised matrices as one of plain ones: integers and 8-bit floats times their scales."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.checkpoint import Checkpoint, values
from graphsched.convert.floats import PLAIN, Floats
from graphsched.convert.quantized import Scheme
from graphsched.errors import LoadError
from graphsched.gguf.format import shown

_SCALE: Final = ("_scale", "_scale_inv")
_BESIDE: Final = (*_SCALE, "_zero_point", "_shape", "_g_idx", "_packed")
# Of activations and caches, which are not quantised here.
_OF_ACTIVATIONS: Final = (
    *("input_scale", "output_scale", "activation_scale", "input_scale_ub", "q_scale", "k_scale", "v_scale"),
    *("input_zero_point", "output_zero_point", "input_global_scale"),
)
_INTEGERS: Final = ("I8", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class _Matrix:
    """The stored tensors of a quantised matrix, and its shape."""

    codes: str
    scale: str
    shape: tuple[int, int]
    bits: int = 0  # of packed integers
    zero_point: str | None = None
    groups: str | None = None  # the group of each column


class Scaled:
    """A checkpoint whose quantised matrices read in float32; all else is that of `source`.

    `ignored` are tensors that only concern activations. LoadError for a matrix without a scale, a scale without a
    matrix, or shapes that do not fit each other.
    """

    def __init__(self, source: Checkpoint, scheme: Scheme) -> None:
        self.where, self._source, self._scheme = source.where, source, scheme
        self.ignored = tuple(n for n in source.shapes if n.rpartition(".")[2] in _OF_ACTIVATIONS)
        parts = _grouped(source, self.ignored)
        self._matrices = {name: self._matrix(name, beside) for name, beside in parts.items() if beside}
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: self._matrices[name].shape if beside else source.shapes[name]
            for name, beside in parts.items()
        }

    def kind(self, name: str) -> str:
        """The type of a tensor by safetensors' name; F32 for quantised matrices."""
        return "F32" if name in self._matrices else self._source.kind(name)

    def stored(self, name: str) -> Any:
        """A plain tensor as it is stored, of a quantised one what computes rows."""
        matrix = self._matrices.get(name)
        return self._source.stored(name) if matrix is None else _Rows(self._source, self._scheme, matrix)

    def _matrix(self, name: str, beside: Mapping[str, str]) -> _Matrix:
        source, where = self._source, f"{self.where}: tensor {shown(name)}"
        scale = next((beside[s] for s in _SCALE if s in beside), None)
        codes = beside.get("_packed", name)
        if codes not in source.shapes or scale is None:
            lacking = "weights" if scale else "scale"
            raise LoadError(f"{where} has {shown(next(iter(beside.values())))} beside it but no {lacking}")
        kind, shape = source.kind(codes), source.shapes[codes]
        if kind != ("I32" if "_packed" in beside else kind) or (kind in PLAIN and "_packed" not in beside):
            raise LoadError(f"{where} is {kind} and has {shown(scale)}, which is not for it")
        if "_packed" not in beside and kind not in _INTEGERS:
            raise LoadError(f"{where} is {kind}, which cannot be converted")
        if len(shape) != 2:
            raise LoadError(f"{where} is quantised and has the shape {list(shape)}, a matrix is needed")
        shape, bits = self._unpacked(where, codes, beside) if "_packed" in beside else (shape, 0)
        found = _Matrix(
            codes, scale, (shape[0], shape[1]), bits, beside.get("_zero_point"), beside.get("_g_idx")
        )
        _Rows(source, self._scheme, found).check(where)
        return found

    def _unpacked(self, where: str, codes: str, beside: Mapping[str, str]) -> tuple[tuple[int, ...], int]:
        """The shape of packed integers, which is stored, and the bits of the scheme that it fits."""
        found = self._source.stored(beside["_shape"])[:].tolist() if "_shape" in beside else []
        rows, words = self._source.shapes[codes]
        for bits in self._scheme.bits or (4, 8):
            if len(found) == 2 and found[0] == rows and -(-found[1] // (32 // bits)) == words:
                return (found[0], found[1]), bits
        raise LoadError(f"{where} is packed in {[rows, words]}, which does not fit its shape {found}")


class _Rows:
    """Rows of a quantised matrix in float32, computed when they are asked for."""

    def __init__(self, source: Checkpoint, scheme: Scheme, matrix: _Matrix) -> None:
        self._source, self._scheme, self._m = source, scheme, matrix

    def check(self, where: str) -> None:
        """LoadError if scales and matrix do not fit each other."""
        scale = self._source.shapes[self._m.scale]
        if len(scale) > 2 or 0 in scale or self._step(0) == 0 or self._step(1) == 0:
            shapes = f"{list(scale)} for a matrix of {list(self._m.shape)}"
            raise LoadError(f"{where}: its scales {shown(self._m.scale)} have the shape {shapes}")

    def __getitem__(self, rows: slice) -> Floats:
        first, last, _ = rows.indices(self._m.shape[0])
        lines, columns = np.arange(first, last) // self._step(0), self._columns()
        codes, scale = self._codes(first, last), self._table(values(self._source, self._m.scale))
        with np.errstate(over="ignore", invalid="ignore"):
            if self._m.zero_point is not None:
                codes -= self._table(self._zero_points(scale.shape))[lines][:, columns]
            codes *= scale[lines][:, columns]
        return codes

    def _table(self, found: Floats) -> Floats:
        """Scales as a matrix: one, one per row, or one per row and group."""
        return found.reshape(len(found) if found.ndim else 1, -1)

    def _step(self, axis: int) -> int:
        """How many rows (axis 0) or columns share a scale; 0 if the scales do not fit."""
        scale, n = self._source.shapes[self._m.scale], self._m.shape[axis]
        counts = (*scale, 1, 1)[:2]
        count = counts[axis]
        block = self._scheme.block[axis]
        if count in (1, n):
            return n // count
        if block and -(-n // block) == count:
            return block
        return n // count if n % count == 0 and axis == 1 else 0

    def _columns(self) -> NDArray[np.int64]:
        """The group of each column."""
        n = self._m.shape[1]
        if self._m.groups is None:
            return np.arange(n) // self._step(1)
        count = (*self._source.shapes[self._m.scale], 1, 1)[1]
        groups = np.asarray(self._source.stored(self._m.groups)[:]).astype(np.int64).reshape(-1)
        if groups.size != n or groups.min(initial=0) < 0 or groups.max(initial=0) >= count:
            raise LoadError(
                f"{self._source.where}: tensor {shown(self._m.groups)} names groups that are not there"
            )
        return groups

    def _codes(self, first: int, last: int) -> Floats:
        if not self._m.bits:
            return values(self._source, self._m.codes, first, last)
        packed = self._source.stored(self._m.codes)[first:last]
        return _unpacked(packed, self._m.bits)[:, : self._m.shape[1]]

    def _zero_points(self, shape: tuple[int, ...]) -> Floats:
        """Those of packed integers are packed along the rows."""
        name = self._m.zero_point
        assert name is not None
        if self._source.kind(name) != "I32":
            return values(self._source, name)
        return np.ascontiguousarray(_unpacked(self._source.stored(name)[:].T, self._m.bits).T[: shape[0]])


def _unpacked(packed: NDArray[Any], bits: int) -> Floats:
    """Signed integers out of words [N, W] -> [N, W · 32 / bits], the first in the lowest bits, each plus 2^(bits-1)."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.ascontiguousarray(packed).view("<u4")[..., None]
    codes = words >> shifts & np.uint32((1 << bits) - 1)
    return codes.reshape(len(packed), -1).astype(np.float32) - np.float32(1 << bits - 1)


def _grouped(source: Checkpoint, ignored: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Names of tensors as a plain checkpoint has them, with what lies beside each, by suffix."""
    found: dict[str, dict[str, str]] = {}
    for name in source.shapes:
        suffix = next((s for s in _BESIDE if name.endswith(s) and f".weight{s}" in name), None)
        if name in ignored:
            continue
        if suffix is None:
            found.setdefault(name, {})
        else:
            found.setdefault(name.removesuffix(suffix), {})[suffix] = name
    return found
