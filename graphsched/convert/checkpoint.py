"""Tensors of a checkpoint by name, mapped from its files: safetensors or what torch.save writes."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.files import WeightFiles, check_index
from graphsched.convert.floats import STORED, widened
from graphsched.convert.torch_file import TorchFile
from graphsched.errors import LoadError
from graphsched.gguf.format import printable, shown

# In front of the names of a model's text part, in one of the ways that checkpoints have.
_TEXT: Final = re.compile(r"(?:model\.language_model|language_model(?:\.model)?)\.")


class Rows(Protocol):
    """An array, or an object whose slices are rows of one."""

    def __getitem__(self, rows: slice, /) -> Any: ...


class Checkpoint(Protocol):
    """A checkpoint to read from: shapes by name, and stored values."""

    @property
    def where(self) -> str:
        """The name by which errors call the checkpoint."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor by name."""

    def kind(self, name: str) -> str:
        """A type's name."""
        ...

    def stored(self, name: str) -> Any:
        """The array as it is stored, or its `Rows`; BF16 comes as bits in uint16."""
        ...


def values(source: Checkpoint, name: str, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
    """A tensor in float32, or its rows from first to last."""
    rows = slice(first, last) if source.shapes[name] else ()  # a scalar has none
    return widened(source.stored(name)[rows], source.kind(name))


@dataclass(frozen=True)
class _Place:
    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int


class Safetensors:
    """Safetensors files as one checkpoint. The library checks them; arrays are views of the mapped files."""

    def __init__(self, where: str, found: WeightFiles) -> None:
        self.where = where
        self._places: dict[str, _Place] = {}
        files_of: dict[str, str] = {}
        for file in found.files:
            for name, place in _places(file):
                _check_new(name, file, files_of)
                self._places[name], files_of[name] = place, file.name
        check_index(found, files_of)
        self.shapes = {name: place.shape for name, place in self._places.items()}

    def kind(self, name: str) -> str:
        """The type of a tensor by safetensors' name. LoadError for one that cannot be converted."""
        kind = self._places[name].kind
        if kind not in STORED:
            raise LoadError(f"{self.where}: tensor {shown(name)} is {kind}, which cannot be converted")
        return kind

    def stored(self, name: str) -> NDArray[Any]:
        """The array as stored, mapped from the file."""
        place, type = self._places[name], STORED[self.kind(name)]
        if 0 in place.shape:
            return np.zeros(place.shape, type)
        return np.memmap(place.file, type, "r", place.offset, place.shape)


class TorchFiles:
    """Files that torch.save has written as one checkpoint."""

    def __init__(self, where: str, found: WeightFiles) -> None:
        self.where = where
        self._files: dict[str, TorchFile] = {}
        files_of: dict[str, str] = {}
        for path in found.files:
            file = TorchFile(path)
            for name in file.shapes:
                _check_new(name, path, files_of)
                self._files[name], files_of[name] = file, path.name
        check_index(found, files_of)
        self.shapes = {name: file.shapes[name] for name, file in self._files.items()}

    def kind(self, name: str) -> str:
        """The type of a tensor by safetensors' name."""
        return self._files[name].kind(name)

    def stored(self, name: str) -> NDArray[Any]:
        """The array as stored, read from the file that has it."""
        return self._files[name].stored(name)


class OfText:
    """The text part of a checkpoint that has towers for images, too: its tensors by the names that they have alone.

    left_out: the names of all others.
    """

    def __init__(self, source: Checkpoint) -> None:
        self._source = source
        self._names = {_TEXT.sub("", name): name for name in source.shapes if _is_text(name)}
        self._names = {
            n if n.startswith("lm_head.") else f"model.{n}": name for n, name in self._names.items()
        }
        self.left_out = tuple(name for name in source.shapes if not _is_text(name))
        self.where = source.where
        self.shapes = {plain: source.shapes[name] for plain, name in self._names.items()}

    def kind(self, name: str) -> str:
        """The type of a tensor by safetensors' name."""
        return self._source.kind(self._names[name])

    def stored(self, name: str) -> Any:
        """The array as stored."""
        return self._source.stored(self._names[name])


def _is_text(name: str) -> bool:
    return name.startswith("lm_head.") or _TEXT.match(name) is not None


def open_checkpoint(folder: Path, found: WeightFiles) -> Checkpoint:
    """The checkpoint that a folder's files make."""
    where = printable(folder.resolve().name)
    is_torch = found.files[0].suffix == ".bin"
    return TorchFiles(where, found) if is_torch else Safetensors(where, found)


def _check_new(name: str, file: Path, files_of: Mapping[str, str]) -> None:
    if name in files_of:
        where = f"{printable(file.name)}: tensor {shown(name)}"
        raise LoadError(f"{where} is also in {printable(files_of[name])}")


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
