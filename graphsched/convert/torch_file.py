"""PyTorch's .pt files, without PyTorch: a zip of raw storages and a pickle that says how tensors lie in them.

A pickle is a program. This reader lets it do one thing, to describe tensors; any other name that it asks for is an
error, so nothing in the file is ever run.
"""

import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from graphsched.errors import LoadError
from graphsched.gguf.format import printable, shown

_LARGEST_PICKLE: Final = 1 << 24
_STORAGES: Final = {
    "DoubleStorage": ("F64", "<f8"),
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "ByteStorage": ("U8", "u1"),
    "CharStorage": ("I8", "i1"),
    "ShortStorage": ("I16", "<i2"),
    "IntStorage": ("I32", "<i4"),
    "LongStorage": ("I64", "<i8"),
}


class _Storage(NamedTuple):
    kind: str
    dtype: str
    key: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """The tensors of a state dict. The storage that was read last stays in memory."""

    def __init__(self, path: Path) -> None:
        self.where = printable(path.name)
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as e:
            raise LoadError(f"{self.where}: {(e.strerror or str(e)).lower()}") from None
        except Exception:  # whatever a broken archive makes the library do
            raise LoadError(f"{self.where}: is not a file that torch.save has written") from None
        self._tensors = self._read()
        self.shapes = {name: t.shape for name, t in self._tensors.items()}
        self._last: tuple[str, bytes] | None = None

    def kind(self, name: str) -> str:
        """The type of a tensor by safetensors' name."""
        return self._tensors[name].storage.kind

    def stored(self, name: str) -> NDArray[Any]:
        """The tensor as stored, a read-only view of its storage."""
        t = self._tensors[name]
        item = np.dtype(t.storage.dtype).itemsize
        flat = np.frombuffer(self._storage(name, t.storage, item), t.storage.dtype)
        strides = tuple(s * item for s in t.strides)
        return as_strided(flat[t.offset :], t.shape, strides, writeable=False)

    def _storage(self, name: str, storage: _Storage, item: int) -> bytes:
        """Its bytes; matrices that lie in one, and pieces of a matrix, are asked for one after the other."""
        if self._last is None or self._last[0] != storage.key:
            member = self._member(f"data/{storage.key}")
            if member.file_size != storage.size * item:
                raise LoadError(
                    f"{self.where}: tensor {shown(name)} has a storage of another size than it says"
                )
            self._last = None
            self._last = storage.key, self._bytes(member)
        return self._last[1]

    def _member(self, name: str) -> zipfile.ZipInfo:
        found = [i for i in self._zip.infolist() if i.filename.partition("/")[2] == name]
        if len(found) != 1:
            raise LoadError(f"{self.where}: the archive has {len(found)} members {shown(name)}")
        if found[0].compress_type != zipfile.ZIP_STORED:  # as torch.save writes; a bomb would not be
            raise LoadError(f"{self.where}: {shown(name)} is compressed, which torch.save never does")
        return found[0]

    def _bytes(self, member: zipfile.ZipInfo) -> bytes:
        try:
            return self._zip.read(member)
        except Exception as e:  # whatever a broken archive makes the library do
            raise LoadError(f"{self.where}: its archive is broken, {printable(str(e))[:80]}") from None

    def _read(self) -> dict[str, _Tensor]:
        member = self._member("data.pkl")
        if member.file_size > _LARGEST_PICKLE:
            raise LoadError(f"{self.where}: its pickle of {member.file_size} bytes is too large")
        raw = self._bytes(member)
        try:
            _check_memo(raw)
            found = _Unpickler(io.BytesIO(raw)).load()
        except LoadError as e:
            raise LoadError(f"{self.where}: {e}") from None
        except Exception as e:  # whatever a broken pickle makes the reader do
            raise LoadError(f"{self.where}: its pickle is broken, {printable(str(e))[:80]}") from None
        if not isinstance(found, dict):
            raise LoadError(f"{self.where}: holds no dictionary of tensors")
        return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, _Tensor)}


def _check_memo(raw: bytes) -> None:
    """A pickle names what it remembers by numbers, and a large one would make the reader fill that much memory."""
    for opcode, argument, _ in pickletools.genops(raw):
        if "PUT" in opcode.name and int(argument or 0) > len(raw):
            raise LoadError("its pickle remembers more than it has room for")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("collections", "OrderedDict"): _Dict,
        }
        if (module, name) not in allowed:
            raise LoadError(f"asks for {shown(f'{module}.{name}')}, which no tensor needs; it is not loaded")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, size = pid
        if kind != "storage" or storage not in _STORAGES or not _is_count(size):
            raise LoadError("a storage that cannot be")
        return _Storage(*_STORAGES[storage], str(key), size)


class _Dict(dict[Any, Any]):
    """An OrderedDict that drops attributes, such as a state dict's versions."""

    def __setstate__(self, state: Any) -> None:
        pass


def _is_count(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 48


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """A tensor, which must lie within its storage."""
    shape, strides = tuple(shape), tuple(strides)
    counts = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(map(_is_count, counts)):
        raise LoadError("a tensor that cannot be")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if math.prod(shape) > storage.size or (math.prod(shape) and last >= storage.size):
        raise LoadError("a tensor that does not lie within its storage")
    return _Tensor(storage, offset, shape, strides)
