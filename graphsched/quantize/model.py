"""A model file into another one: tensor by tensor, each in pieces that threads work on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, LoadError, OptionError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.copy import shard_keys, shard_path
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.loader import ModelFile, TensorInfo
from graphsched.gguf.write import aligned, encode_header
from graphsched.quantize.cast import encode
from graphsched.quantize.choose import Choice, QuantizeOptions
from graphsched.types.layouts import i2_s_of_arm
from graphsched.types.shapes import TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")
_PIECE: Final = 1 << 18  # weights that a thread takes at once
_LEFT_OUT: Final = ("general.alignment", "split.no", "split.count", "split.tensors.count")


def write(
    file: ModelFile,
    out: Path,
    choices: Sequence[Choice],
    options: QuantizeOptions,
    *,
    threads: int,
    keep_split: bool = False,
    begin: Callable[[int, Choice], None] = lambda i, choice: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes OUT, or a part of it for each part of the file; each appears when it is whole.

    `begin` is called for each tensor, `progress` with weights.
    """
    count = len(file.parts) if keep_split else 1
    groups = [[c for c in choices if count == 1 or c.source.part == no] for no in range(count)]
    paths = [shard_path(out, no, count) if count > 1 else out for no in range(count)]
    for path in paths:
        if path.exists() and any(path.samefile(part) for part in file.parts):
            raise OptionError(
                f"{printable(str(path))}: is the file to be quantised, which is not overwritten"
            )
    task = _Task(file, options, threads, sum(_weights(c) for c in choices), begin, progress)
    # Before hours of work: whether the disk has room for all of it.
    check_target(out, sum(_nbytes(group) for group in groups))
    for no, (path, group) in enumerate(zip(paths, groups, strict=True)):
        keys = _metadata(file, options) if no == 0 else {}
        task.write(path, keys | shard_keys(no, count, len(choices)), group)


def _weights(choice: Choice) -> int:
    return int(np.prod(choice.source.shape, dtype=np.int64))


def _nbytes(choices: Iterable[Choice]) -> int:
    return sum(aligned(c.dtype.tensor_bytes(c.source.shape)) for c in choices)


@dataclass
class _Task:
    """The files that are written, one after the other, and how far that is."""

    file: ModelFile
    options: QuantizeOptions
    threads: int
    total: int
    begin: Callable[[int, Choice], None]
    progress: Callable[[int, int], None]
    i: int = 0
    done: int = 0

    def write(self, out: Path, keys: dict[str, MetaValue | bytes], choices: Sequence[Choice]) -> None:
        head = encode_header(keys, {c.source.name: TensorType(c.dtype, c.source.shape) for c in choices})
        with replacing(out) as target, ThreadPoolExecutor(self.threads) as pool:
            target.write(head)
            for choice in choices:
                self.begin(self.i, choice)
                size = 0
                for data, weights in _data(self.file, choice, self.options, pool, 2 * self.threads):
                    target.write(data.data)
                    size, self.done = size + data.nbytes, self.done + weights
                    self.progress(self.done, self.total)
                target.write(bytes(aligned(size) - size))
                self.i += 1


def _metadata(file: ModelFile, options: QuantizeOptions) -> dict[str, MetaValue | bytes]:
    kept: dict[str, MetaValue | bytes] = {k: file.encoded(k) for k in file.metadata if k not in _LEFT_OUT}
    if options.mix is None:
        return kept
    kept |= {"general.quantization_version": 2, "general.file_type": options.mix.file_type}
    return kept | (options.importance.metadata() if options.importance else {})


def _data(
    file: ModelFile, choice: Choice, options: QuantizeOptions, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Bytes, int]]:
    """The tensor's bytes in order, with the number of weights that each piece stands for."""
    info = choice.source
    if choice.is_copied:
        yield file.raw(info.name), int(np.prod(info.shape))
        return
    importance = options.importance.of(info.name, info.shape) if options.importance else None
    quantise = _Quantise(file, choice, importance, options.is_arm)
    tails = []
    for piece, raw in _in_order(pool, quantise, _pieces(info, choice), ahead):
        size = raw.size - choice.dtype.tail
        tails.append(raw[size:])
        yield raw[:size], piece.rows * info.shape[-1]
    if choice.dtype.tail:
        yield _whole_tail(tails), 0


def _whole_tail(tails: Sequence[Bytes]) -> Bytes:
    """The one type that has a tail (I2_S) keeps the largest weight there."""
    largest: Floats = np.stack(tails).view("<f4").max(axis=0)
    return largest.view(np.uint8)


@dataclass(frozen=True)
class _Piece:
    """Some rows of one matrix of a tensor."""

    matrix: int
    first: int
    rows: int


def _pieces(info: TensorInfo, choice: Choice) -> Iterator[_Piece]:
    n, rows = info.shape[-1], info.shape[-2]
    group = max(choice.dtype.interleave, info.dtype.interleave)
    step = max(1, _PIECE // n // group) * group
    for matrix in range(int(np.prod(info.shape[:-2], dtype=np.int64))):
        for first in range(0, rows, step):
            yield _Piece(matrix, first, min(step, rows - first))


@dataclass(frozen=True)
class _Quantise:
    """The work of a thread: rows of the source to bytes of the new type."""

    file: ModelFile
    choice: Choice
    importance: Floats | None
    is_arm: bool

    def __call__(self, piece: _Piece) -> Bytes:
        info = self.choice.source
        importance = None if self.importance is None else self.importance[piece.matrix]
        where = f"{printable(self.file.path.name)}: tensor {shown(info.name)}"
        return encode(self._source(info, piece), self.choice.dtype, where, importance)

    def _source(self, info: TensorInfo, piece: _Piece) -> Floats:
        n, rows = info.shape[-1], info.shape[-2]
        raw, size = self.file.raw(info.name), info.dtype.row_bytes(info.shape[-1])
        start = (piece.matrix * rows + piece.first) * size
        part = raw[start : start + piece.rows * size]
        if self.is_arm and info.dtype.name == "I2_S":
            part = i2_s_of_arm(part)
        if info.dtype.tail:
            part = np.concatenate([part, raw[-info.dtype.tail :]])
        try:
            return info.dtype.dequantize(part, (piece.rows, n))
        except Error as e:
            raise LoadError(f"{printable(self.file.path.name)}: tensor {shown(info.name)}: {e}") from None


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[tuple[T, R]]:
    """Each item with its result, in order; at most `ahead` results wait."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
