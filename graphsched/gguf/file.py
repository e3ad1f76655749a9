"""One GGUF file: mapped, and every tensor checked against the file."""

import math
import mmap
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphsched.errors import Error, LoadError
from graphsched.gguf.format import Entry, Header, MetaValue, in_bytes, printable, read_header, shown
from graphsched.types.dtypes import DType, by_id


class _Missing(Enum):
    MISSING = 0


MISSING: Final = _Missing.MISSING
_KINDS: Final[dict[type, str]] = {
    bool: "a bool",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "an array of strings",
    np.ndarray: "an array of numbers",
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: shape outermost first, offset from the start of its file."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    offset: int
    nbytes: int
    part: int = 0


@dataclass(frozen=True)
class GgufFile:
    path: Path
    map: mmap.mmap
    header: Header
    alignment: int
    tensors: tuple[TensorInfo, ...]

    @property
    def file(self) -> str:
        """The file's name, as errors print it."""
        return printable(self.path.name)

    def get(self, key: str, default: int) -> int:
        """An integer key of the metadata. LoadError for one of another type."""
        return lookup(self.header.metadata, self.file, key, int, default)


def open_file(path: Path, header_only: bool, on_error: ExitStack) -> GgufFile:
    """Maps a file and reads its header; `on_error` unmaps it again. LoadError for what is no GGUF file."""
    data = _map_file(path)
    on_error.callback(unmap, data)
    return read_file(data, path, header_only)


def read_file(data: mmap.mmap, path: Path, header_only: bool) -> GgufFile:
    """A file from its bytes; LoadError for whatever is wrong with them."""
    file = printable(path.name)
    header = read_header(data, file)
    alignment = _alignment(header, file)
    start = -(-header.end // alignment) * alignment
    tensors = tuple(_tensor(e, start, alignment, file) for e in header.entries)
    _check_extents(tensors, file, None if header_only else len(data))
    return GgufFile(path, data, header, alignment, tensors)


def lookup(metadata: Mapping[str, MetaValue], file: str, key: str, kind: type[Any], default: Any) -> Any:
    """metadata[key] if it is of the kind; integers pass as floats, bools not as integers.

    A list of equal numbers passes as that number: some writers give one for each layer.
    """
    value = metadata.get(key, MISSING)
    if (
        kind in (int, float)
        and isinstance(value, np.ndarray)
        and value.size
        and (value == value.flat[0]).all()
    ):
        value = value.flat[0].item()
    if value is MISSING:
        if default is MISSING:
            raise LoadError(f"{file}: missing key {key}")
        return default
    # Some writers store 1.0 as the integer 1.
    if kind is float and type(value) is int:
        return float(value)
    actual = np.ndarray if isinstance(value, np.ndarray) else type(value)
    if actual is not kind:
        raise LoadError(f"{file}: key {key} is {_KINDS[actual]}, {_KINDS[kind]} is needed")
    return value


def _map_file(path: Path) -> mmap.mmap:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LoadError(f"{printable(str(path))}: is a directory, a GGUF file is needed")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise LoadError(f"{printable(str(path))}: is not a regular file")
        with path.open("rb") as f:
            if f.seek(0, 2) == 0:
                raise LoadError(f"{printable(str(path))}: the file is empty")
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise LoadError(f"{printable(str(path))}: {(e.strerror or str(e)).lower()}") from None
    except ValueError:
        raise LoadError(f"{printable(str(path))}: is not a possible file name") from None


def unmap(data: mmap.mmap) -> None:
    """Unmaps a file, now or when the last array over it goes."""
    with suppress(BufferError):  # an array still looks into it and unmaps it when it goes
        data.close()


def _alignment(header: Header, file: str) -> int:
    alignment = lookup(header.metadata, file, "general.alignment", int, 32)
    if alignment < 8 or alignment & (alignment - 1):
        raise LoadError(f"{file}: key general.alignment is {alignment}, a power of two from 8 up is needed")
    return alignment


def _tensor(entry: Entry, start: int, alignment: int, file: str) -> TensorInfo:
    where = f"{file}: tensor {shown(entry.name)}"
    shape = entry.dims[::-1]
    if 0 in shape:
        raise LoadError(f"{where} has a dimension of 0 in its shape {list(shape)}")
    try:
        dtype = by_id(entry.type_id)
        nbytes = dtype.tensor_bytes(shape)
    except Error as e:
        raise LoadError(f"{where}: {e}") from None
    if max(math.prod(shape), nbytes, entry.offset) >= 2**63:
        raise LoadError(f"{where}: its size or offset overflows 64 bits")
    if entry.offset % alignment:
        raise LoadError(f"{where}: offset {entry.offset} is not a multiple of the alignment {alignment}")
    return TensorInfo(entry.name, shape, dtype, start + entry.offset, nbytes)


def _check_extents(tensors: Iterable[TensorInfo], file: str, size: int | None) -> None:
    """No two tensors share a byte, and none ends behind the file's `size`, if that is to be checked."""
    end, before = 0, ""
    for t in sorted(tensors, key=lambda t: t.offset):
        if t.offset < end:
            raise LoadError(
                f"{file}: tensors {before} and {shown(t.name)} overlap by {in_bytes(end - t.offset)}"
            )
        end, before = t.offset + t.nbytes, shown(t.name)
        if size is not None and end > size:
            raise LoadError(f"{file}: tensor {before} ends {in_bytes(end - size)} past the end of the file")
