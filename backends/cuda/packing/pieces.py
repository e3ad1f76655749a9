"""A weight in pieces that are packed on their own: which file bytes, and where what becomes of them lies."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.language.jit import Kernel
from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.call import up
from graphsched.backends.cuda.launch.layout import ALIGN, LAYOUTS
from graphsched.backends.cuda.launch.weights import BLOCKS, is_tiled, row_bytes
from graphsched.backends.cuda.packing.kernels import pack_planes, pack_rows, pack_tiles, pad_rows
from graphsched.errors import ShapeError
from graphsched.graph.tensor import TensorType

Raw = NDArray[np.uint8]
LINE = 64  # bytes: runs of a staged piece start at multiples


@dataclass(frozen=True, slots=True)
class Plane:
    """A part of every packed matrix: from where on, its bytes, how many a unit fills, zeros behind it."""

    at: int
    nbytes: int
    unit: int
    zeros: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a piece in one plane: where in the packed weight, where in staging memory, and zeros behind them."""

    at: int
    staged: int
    nbytes: int
    zeros: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some units of a matrix: its file bytes start at `source` and, with the matrix, end `left` bytes on."""

    source: int
    left: int
    units: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Packing:
    """What becomes of a weight: matrices one after the other, each of units (a block, a row, rows of a tile, a byte).

    kernel: packs units into planes; without one, bytes stay as they are. wide: what it is told of a row.
    """

    nbytes: int
    matrices: int
    file_bytes: int
    unit: int
    planes: tuple[Plane, ...]
    kernel: Kernel | None = None
    wide: int = 0

    def compile(self) -> None:
        """Once, before threads use it."""
        if self.kernel is not None:
            _ = self.kernel.call

    def pieces(self, most: int) -> Iterator[Piece]:
        """Pieces in order, which take at most `most` bytes when staged; ShapeError if a unit takes more."""
        room = most - len(self.planes) * (ALIGN + LINE)
        units, each = up(self.file_bytes, self.unit), sum(p.unit for p in self.planes)
        if each > room:
            raise ShapeError(
                f"upload: {each} bytes of one row are more than the {room} that are staged at once"
            )
        step = max(1, up(units, max(1, up(units, room // each))))
        for matrix in range(self.matrices):
            for first in range(0, units, step):
                yield self._piece(matrix, first, min(step, units - first))

    def _piece(self, matrix: int, first: int, units: int) -> Piece:
        runs, staged = list[Run](), 0
        for p in self.planes:
            start, end = first * p.unit, min((first + units) * p.unit, p.nbytes)
            zeros = p.zeros if end == p.nbytes else 0
            runs.append(
                Run(matrix * (self.nbytes // self.matrices) + p.at + start, staged, end - start, zeros)
            )
            staged += up(end - start + zeros, LINE) * LINE
        done = first * self.unit
        return Piece(matrix * self.file_bytes + done, self.file_bytes - done, units, tuple(runs))

    def write(self, piece: Piece, raw: int, to: Sequence[int]) -> None:
        """Packs a piece of the weight whose file bytes are at `raw`; `to`: an address for each of its runs."""
        if self.kernel is None:
            ctypes.memmove(to[0], raw + piece.source, piece.runs[0].nbytes)
        else:
            words = np.array([raw + piece.source, piece.units, piece.left, self.wide, *to], np.int64)
            self.kernel.call(words.ctypes.data, 0, 0, 1)
        for run, address in zip(piece.runs, to, strict=True):
            if run.zeros:
                ctypes.memset(address + run.nbytes, 0, run.zeros)


@cache
def packing(type: TensorType) -> Packing:
    """How a weight of this type is packed."""
    if is_tiled(type):
        return _tiles(type)
    if type.dtype in BLOCKS:
        return _blocks(type)
    columns, width = type.nbytes // type.numel * int(type.shape[-1]), row_bytes(type)
    if len(type.shape) < 2 or columns == width:
        return as_it_is(type.nbytes)
    rows = type.numel // int(type.shape[-1])
    plane = Plane(0, rows * width, width)
    return Packing(rows * width, 1, type.nbytes, columns, (plane,), pad_rows(), columns)


def as_it_is(nbytes: int) -> Packing:
    """Of bytes that stay as they are."""
    return Packing(nbytes, 1, nbytes, 1, (Plane(0, nbytes, 1),))


def _tiles(type: TensorType) -> Packing:
    rows, k = map(int, type.shape)
    t = type.dtype
    planes = (
        Plane(0, ternary_tiles.nbytes(rows, k), ternary_tiles.nbytes(ternary_tiles.ROWS, k)),
        Plane(ternary_tiles.scales_at(rows, k), 4 * rows, 4 * ternary_tiles.ROWS),
    )
    tiles = pack_tiles(t.id, t.row_header, t.nbytes)
    unit = ternary_tiles.ROWS * t.row_bytes(k)
    return Packing(ternary_tiles.scaled_bytes(rows, k), 1, type.nbytes, unit, planes, tiles, k // t.block)


def _blocks(type: TensorType) -> Packing:
    rows, k = map(int, type.shape[-2:])
    layout, t, matrices = LAYOUTS[BLOCKS[type.dtype]], type.dtype, type.numel // (rows * k)
    if k % layout.block:
        raise ShapeError(f"{type} has rows that are no whole blocks of {layout.block}")
    per = [layout.sizes(1, k)[i] if layout.header else n for i, n in enumerate(layout.sizes(1, layout.block))]
    planes, at = list[Plane](), 0
    for nbytes, unit in zip(layout.sizes(rows, k), per, strict=True):
        planes.append(Plane(at, nbytes, unit, -nbytes % ALIGN))
        at += up(nbytes, ALIGN) * ALIGN
    q, h, s, b, _ = layout.sizes(1, layout.block)
    if layout.header:
        fill, unit = pack_rows(t.id, layout.header, layout.nbytes, q), t.row_bytes(k)
    else:
        fill, unit = pack_planes(t.id, layout.nbytes, q, h, s, b), layout.nbytes
    file_bytes = layout.file_bytes(rows, k)
    return Packing(matrices * at, matrices, file_bytes, unit, tuple(planes), fill, k // layout.block)
