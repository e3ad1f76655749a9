"""Tensors of a checkpoint by name, mapped from its files: safetensors, one file or several."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.config import read_json
from graphsched.errors import LoadError
from graphsched.gguf.format import printable, shown

# BF16 as its bits; `values` widens them.
_TYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "U8": "u1",
    "I8": "i1",
}


class Checkpoint(Protocol):
    """What is read from: shapes by name, and stored values."""

    @property
    def where(self) -> str: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    def kind(self, name: str) -> str:
        """A type's name."""
        ...

    def stored(self, name: str) -> NDArray[Any]:
        """The array as it is stored; BF16 comes as bits in uint16."""
        ...


def values(source: Checkpoint, name: str, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
    """A tensor in float32, or its rows from first to last."""
    array = source.stored(name)[first:last]
    if source.kind(name) != "BF16":
        return array.astype(np.float32)
    bits = array.astype("<u4")
    bits <<= 16
    return bits.view("<f4")


@dataclass(frozen=True)
class _Place:
    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Safetensors:
    """The *.safetensors files of a folder. The library checks them; arrays are views of the mapped files."""

    def __init__(self, folder: Path) -> None:
        self.where = printable(folder.name)
        self._places = {name: place for file in _files(folder) for name, place in _places(file)}
        self.shapes = {name: place.shape for name, place in self._places.items()}

    def kind(self, name: str) -> str:
        kind = self._places[name].kind
        if kind not in _TYPES:
            raise LoadError(f"{self.where}: tensor {shown(name)} is {kind}, which cannot be converted")
        return kind

    def stored(self, name: str) -> NDArray[Any]:
        place, type = self._places[name], _TYPES[self.kind(name)]
        if 0 in place.shape:
            return np.zeros(place.shape, type)
        return np.memmap(place.file, type, "r", place.offset, place.shape)


def _files(folder: Path) -> list[Path]:
    """The files that the index names, or all there are."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    found = read_json(index).get("weight_map")
    names = sorted({str(n) for n in found.values()}) if isinstance(found, dict) else []
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise LoadError(f"{index.name}: names the file {shown(name)}, which is not there")
    return [folder / name for name in names]


def _places(file: Path) -> Iterator[tuple[str, _Place]]:
    try:
        from safetensors import SafetensorError, safe_open  # of the extra [convert]
    except ImportError:
        raise LoadError("reading safetensors needs the extra: pip install 'graphsched[convert]'") from None
    try:
        with safe_open(str(file), framework="np"):  # checks header, sizes and that nothing overlaps
            pass
    except (SafetensorError, OSError) as e:
        raise LoadError(f"{printable(file.name)}: is no safetensors file, {printable(str(e))}") from None
    with file.open("rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
    for name, entry in header.items():
        if name != "__metadata__":
            with suppress(KeyError):
                shape = tuple(entry["shape"])
                yield name, _Place(file, entry["dtype"], shape, 8 + size + entry["data_offsets"][0])
