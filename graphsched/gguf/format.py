"""The GGUF container: the bytes in front of the tensor data, as metadata and a list of tensor entries."""

import mmap
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import LoadError

# Strings that are not UTF-8 (tokens may be any bytes) keep their bytes as surrogates: encode("utf-8",
# "surrogateescape") gives them back. Arrays of strings are tuples, arrays of numbers read-only numpy arrays.
MetaValue = bool | int | float | str | tuple[str, ...] | NDArray[Any]

_SCALARS: Final = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1"} | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_BEFORE_GGUF: Final = (b"lmgg", b"fmgg", b"tjgg", b"algg")
_FIXED: Final = 24  # magic, version, two counts
_SMALLEST_TENSOR: Final = 24  # name length, number of dimensions, type, offset
_SMALLEST_KEY: Final = 13  # name length, value type, one byte of value
# Real headers have up to 30 MB; without a limit, a sparse file of no size on disk could ask for any memory.
_LONGEST_HEADER: Final = 2**28
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


@dataclass(frozen=True)
class Entry:
    """One tensor as the file states it: dimensions innermost first, offset from the start of the data."""

    name: str
    dims: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class Header:
    version: int
    metadata: dict[str, MetaValue]
    entries: tuple[Entry, ...]
    end: int
    places: dict[str, tuple[int, int]]  # of each key's value, its type in front


def printable(text: str) -> str:
    """Text as it may appear in a sentence: on one line, without control characters."""
    return text if text.isprintable() else ascii(text)[1:-1]


def shown(name: str) -> str:
    """A name out of a file, printable and not endless."""
    name = printable(name) or '""'
    return name if len(name) <= 80 else f"{name[:77]}..."


def in_bytes(n: int) -> str:
    """A number of bytes in words."""
    return "1 byte" if n == 1 else f"{n} bytes"


def read_header(data: mmap.mmap, file: str) -> Header:
    """Everything in front of the data; `file` is what errors call the file."""
    cursor = _Cursor(data, file)
    version, n_tensors, n_keys = _counts(cursor)
    metadata, places = _metadata(cursor, n_keys)
    return Header(version, metadata, _entries(cursor, n_tensors), cursor.pos, places)


class _Cursor:
    """Reads values one after the other and never past the end; `place` says what is being read."""

    def __init__(self, data: mmap.mmap, file: str) -> None:
        self.data, self.file, self.pos, self.place = data, file, 0, "the header"
        self.size = min(len(data), _LONGEST_HEADER)

    def fail(self, what: str) -> LoadError:
        return LoadError(f"{self.file}: {what}")

    def need(self, n: int) -> int:
        """The position of the next n bytes; moves behind them."""
        start, self.pos = self.pos, self.pos + n
        if self.pos > self.size < len(self.data):
            raise self.fail(f"{self.place} ends behind the {self.size} bytes that a header may have")
        if self.pos > self.size:
            raise self.fail(f"the file ends inside {self.place}, {in_bytes(self.pos - self.size)} short")
        return start

    def u32(self) -> int:
        return _U32.unpack_from(self.data, self.need(4))[0]

    def u64(self) -> int:
        return _U64.unpack_from(self.data, self.need(8))[0]

    def string(self) -> str:
        n = self.u64()
        start = self.need(n)
        return self.data[start : start + n].decode("utf-8", "surrogateescape")

    def strings(self, n: int) -> tuple[str, ...]:
        # `string` written out: a vocabulary has 150,000 of them
        data, size, pos, length = self.data, self.size, self.need(8 * n), _U64.unpack_from
        out = []
        for _ in range(n):
            start = pos + 8
            end = start + length(data, pos)[0] if start <= size else start
            if end > size:
                self.pos = pos
                self.string()  # raises
            out.append(data[start:end].decode("utf-8", "surrogateescape"))
            pos = end
        self.pos = pos
        return tuple(out)

    def numbers(self, type_id: int, n: int) -> NDArray[Any]:
        dtype = np.dtype(_SCALARS[type_id])
        start = self.need(n * dtype.itemsize)
        array = np.frombuffer(self.data, dtype, n, start).astype(np.bool_ if type_id == _BOOL else dtype)
        array.flags.writeable = False
        return array


def _what_it_is(start: bytes) -> str:
    """A sentence for a file of another known format that people take for GGUF."""
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself, which git lfs pull fetches"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<head", b"<?xml"):
        return "is a web page, not a GGUF file; the download went wrong"
    if start[:4] in _BEFORE_GGUF:
        return "is a GGML file from before GGUF, its checkpoint has to be converted anew"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27:
        return "is a safetensors file, graphsched convert takes its folder"
    if start[:4] == b"PK\x03\x04":
        return "is a zip archive, as torch.save writes; graphsched convert takes a checkpoint's folder"
    return f"not a GGUF file, it starts with the bytes {start[:4].hex(' ')}"


def _counts(cursor: _Cursor) -> tuple[int, int, int]:
    magic = cursor.data[:4]
    if magic != b"GGUF":
        raise cursor.fail(_what_it_is(bytes(cursor.data[:64])))
    cursor.need(4)
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise cursor.fail("a big-endian GGUF file, only little-endian ones can be read")
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version}, versions 2 and 3 can be read")
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    left = cursor.size - _FIXED
    if n_keys * _SMALLEST_KEY > left:
        raise cursor.fail(f"{n_keys} metadata keys do not fit into the {in_bytes(left)} behind the header")
    if n_tensors * _SMALLEST_TENSOR > left:
        raise cursor.fail(f"{n_tensors} tensors do not fit into the {in_bytes(left)} behind the header")
    return version, n_tensors, n_keys


def _metadata(cursor: _Cursor, n_keys: int) -> tuple[dict[str, MetaValue], dict[str, tuple[int, int]]]:
    metadata: dict[str, MetaValue] = {}
    places: dict[str, tuple[int, int]] = {}
    for i in range(n_keys):
        cursor.place = f"the name of metadata key {i + 1} of {n_keys}"
        key = cursor.string()
        cursor.place = f"key {shown(key)}"
        if key in metadata:
            raise cursor.fail(f"key {shown(key)} appears twice")
        start = cursor.pos
        metadata[key] = _value(cursor, cursor.u32())
        places[key] = start, cursor.pos
    return metadata, places


def _value(cursor: _Cursor, type_id: int) -> MetaValue:
    if type_id == _STRING:
        return cursor.string()
    if type_id == _ARRAY:
        return _array(cursor, cursor.u32(), cursor.u64())
    if type_id not in _SCALARS:
        raise cursor.fail(f"{cursor.place} has the unknown value type {type_id}")
    return cursor.numbers(type_id, 1)[0].item()


def _array(cursor: _Cursor, type_id: int, n: int) -> MetaValue:
    if type_id == _ARRAY:
        raise cursor.fail(f"{cursor.place} is an array of arrays, which cannot be read")
    if type_id != _STRING and type_id not in _SCALARS:
        raise cursor.fail(f"{cursor.place} is an array of the unknown value type {type_id}")
    cursor.place += f" (an array of {n})"
    return cursor.strings(n) if type_id == _STRING else cursor.numbers(type_id, n)


def _entries(cursor: _Cursor, n_tensors: int) -> tuple[Entry, ...]:
    entries: dict[str, Entry] = {}
    for i in range(n_tensors):
        cursor.place = f"the name of tensor {i + 1} of {n_tensors}"
        name = cursor.string()
        cursor.place = f"the entry of tensor {shown(name)}"
        if name in entries:
            raise cursor.fail(f"tensor {shown(name)} appears twice")
        n_dims = cursor.u32()
        if n_dims > 4:
            raise cursor.fail(f"tensor {shown(name)} has {n_dims} dimensions, at most 4 are possible")
        dims = tuple(cursor.u64() for _ in range(n_dims))
        entries[name] = Entry(name, dims, cursor.u32(), cursor.u64())
    return tuple(entries.values())
