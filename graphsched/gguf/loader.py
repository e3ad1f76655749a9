"""Model files: GGUF, memory-mapped and checked, one file or split into parts."""

import mmap
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, LoadError
from graphsched.gguf.file import MISSING, GgufFile, TensorInfo, lookup, open_file, read_file, unmap
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.given import Given
from graphsched.gguf.override import Overridden, Override
from graphsched.gguf.write import encode_value

__all__ = ["MISSING", "MetaValue", "ModelFile", "TensorInfo", "open_model"]

T = TypeVar("T")
D = TypeVar("D")
_PART_NAME: Final = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class ModelFile:
    """An open model. Addresses hold until `close`.

    As with every memory map, a file that others cut short while it is open ends the process.
    """

    def __init__(self, parts: tuple[GgufFile, ...], overrides: Sequence[Override] = ()) -> None:
        first = parts[0]
        self.path, self.parts = first.path, tuple(p.path for p in parts)
        self._overridden = Overridden(first.header.metadata, overrides)
        self.metadata: Mapping[str, MetaValue] = (
            self._overridden if overrides else MappingProxyType(first.header.metadata)
        )
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            {t.name: t for p in parts for t in p.tensors}
        )
        self.version, self.alignment = first.header.version, first.alignment
        self._maps, self._places = [p.map for p in parts], first.header.places
        self._bytes = [np.frombuffer(m, np.uint8) for m in self._maps]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes: a read-only view of the mapped file."""
        info = self._info(name)
        if not self._bytes:
            raise LoadError(f"{self._file(info)}: the model is closed")
        data = self._bytes[info.part][info.offset : info.offset + info.nbytes]
        if data.size < info.nbytes:
            raise LoadError(f"{self._file(info)}: the data of tensor {shown(name)} is not in the file")
        return data

    def holds(self, name: str) -> bool:
        """Whether a tensor's data is there; a file cut after its header has none."""
        info = self._info(name)
        return info.offset + info.nbytes <= self._bytes[info.part].size

    def release(self, name: str) -> None:
        """Takes the tensor's whole pages out of this process; the next read maps them again."""
        info, page = self._info(name), mmap.PAGESIZE
        first, end = -(-info.offset // page) * page, (info.offset + info.nbytes) // page * page
        if end > first and hasattr(mmap, "MADV_DONTNEED"):
            self._maps[info.part].madvise(mmap.MADV_DONTNEED, first, end - first)

    def prefault(self) -> None:
        """Asks the system to read the files ahead of need, and for huge pages where it has them for files."""
        for m in self._maps:
            for advice in ("MADV_WILLNEED", "MADV_HUGEPAGE"):
                with suppress(OSError):  # not every file system can
                    if hasattr(mmap, advice):
                        m.madvise(getattr(mmap, advice))

    def address(self, name: str) -> int:
        """The address of the tensor's first byte."""
        return self.raw(name).ctypes.data

    def array(self, name: str) -> NDArray[Any]:
        """The tensor's values: a view for a type that numpy knows, else float32."""
        info, raw = self._info(name), self.raw(name)
        if info.dtype.numpy is not None:
            return raw.view(info.dtype.numpy).reshape(info.shape)
        try:
            return info.dtype.dequantize(raw, info.shape)
        except Error as e:
            raise LoadError(f"{self._file(info)}: tensor {shown(name)}: {e}") from None

    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[Any], default: Any = MISSING) -> Any:
        """A metadata value of a kind: bool, int, float, str, tuple (strings) or np.ndarray (numbers)."""
        return lookup(self.metadata, printable(self.path.name), key, kind, default)

    def overrides(self) -> tuple[Given, ...]:
        """The rules that replace metadata, each with the number of times that its key has been read by now."""
        return self._overridden.given()

    def encoded(self, key: str) -> bytes:
        """A metadata value as the file has it, type in front: for a file that takes it over unchanged."""
        if key in self._overridden.overrides:
            return encode_value(self.metadata[key])
        start, end = self._places[key]
        return self._maps[0][start:end]

    def close(self) -> None:
        """Unmaps the files, or leaves that to the last array that still looks into them."""
        self._bytes.clear()
        for m in self._maps:
            unmap(m)
        self._maps.clear()

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise LoadError(f"{printable(self.path.name)}: there is no tensor {shown(name)}")
        return self.tensors[name]

    def _file(self, info: TensorInfo) -> str:
        return printable(self.parts[info.part].name)


def open_model(
    path: str | Path, *, header_only: bool = False, overrides: Sequence[Override] = ()
) -> ModelFile:
    """Opens a model file, with all its parts if it is split; `header_only` takes a file without its data.

    `overrides` take the place of its metadata.
    """
    path = Path(path)
    with ExitStack() as on_error:
        given = open_file(path, header_only, on_error)
        parts = tuple(
            given if p == path else open_file(p, header_only, on_error) for p in _shard_paths(given)
        )
        _check_shards(parts)
        model = ModelFile(_numbered(parts), overrides)
        on_error.pop_all()
        return model


def model_of_header(head: bytes, name: str) -> ModelFile:
    """The model that a header describes, its data left out; `name` is what errors call it."""
    data = mmap.mmap(-1, len(head))
    data[:] = head
    return ModelFile((read_file(data, Path(name), True),))


def _shard_paths(given: GgufFile) -> list[Path]:
    """The paths of all shards of the file, given one; itself if it is not split."""
    count = given.get("split.count", 0)
    if count < 2:
        return [given.path]
    match = _PART_NAME.fullmatch(given.path.name)
    # Shards that were concatenated byte by byte open as the first one, which would only be said to lack tensors.
    if _has_more_behind(given):
        raise LoadError(
            f"{given.file}: has more parts behind its end; they are for gguf merge, not to be joined"
        )
    if match is None:
        raise LoadError(f"{given.file}: is a part of {count} but is not named NAME-00001-of-{count:05}.gguf")
    if int(match["count"]) != count:
        raise LoadError(f"{given.file}: key split.count is {count}, the file name says {int(match['count'])}")
    names = [f"{match['stem']}-{no:05}-of-{count:05}.gguf" for no in range(1, count + 1)]
    paths = [given.path.with_name(name) for name in names]
    for no, path in enumerate(paths, 1):
        if not path.exists():
            raise LoadError(f"{given.file}: part {no} of {count} is missing, {printable(path.name)}")
    return paths


def _has_more_behind(part: GgufFile) -> bool:
    """Whether another file begins behind this one's tensors, as where parts were joined byte by byte."""
    end = max((t.offset + t.nbytes for t in part.tensors), default=part.header.end)
    tail = part.map[end : end + 2 * part.alignment]
    return b"GGUF" in tail


def _check_shards(parts: tuple[GgufFile, ...]) -> None:
    if len(parts) == 1:
        return
    seen: dict[str, GgufFile] = {}
    for no, part in enumerate(parts):
        for key, value in {"split.no": no, "split.count": len(parts)}.items():
            if (found := part.get(key, -1)) != value:
                raise LoadError(f"{part.file}: key {key} is {found}, its place among the parts says {value}")
        for t in part.tensors:
            if t.name in seen:
                raise LoadError(f"{part.file}: tensor {shown(t.name)} is also in {seen[t.name].file}")
            seen[t.name] = part
    # A shard of another split of the same model has the right keys and too few tensors.
    total = parts[0].get("split.tensors.count", len(seen))
    if total != len(seen):
        raise LoadError(f"{parts[0].file}: key split.tensors.count is {total}, the parts hold {len(seen)}")


def _numbered(parts: tuple[GgufFile, ...]) -> tuple[GgufFile, ...]:
    return tuple(
        replace(p, tensors=tuple(replace(t, part=i) for t in p.tensors)) for i, p in enumerate(parts)
    )
