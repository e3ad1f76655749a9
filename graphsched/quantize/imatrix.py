"""Importance matrices: how large the activations of each column were, as llama-imatrix writes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, LoadError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.loader import ModelFile, open_model

Floats = NDArray[np.float32]
_I32: Final = Struct("<i")
_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Importance:
    """Mean squares of activations by tensor, [columns] or [experts × columns], and where they come from."""

    values: Mapping[str, Floats]
    file: str
    datasets: str
    chunks: int

    def metadata(self) -> dict[str, MetaValue]:
        """The keys by which a model says what it was quantised with."""
        return {
            "quantize.imatrix.file": self.file,
            "quantize.imatrix.dataset": self.datasets,
            "quantize.imatrix.entries_count": len(self.values),
            "quantize.imatrix.chunks_count": self.chunks,
        }

    def of(self, name: str, shape: tuple[int, ...]) -> Floats | None:
        """[matrices, columns] for a tensor, None if it has no entry; a wrong number is an error."""
        found = self.values.get(name)
        if found is None:
            return None
        matrices = int(np.prod(shape[:-2], dtype=np.int64))
        if found.size not in (shape[-1], matrices * shape[-1]):
            sentence = f"tensor {shown(name)} of shape {list(shape)} has {found.size} values"
            raise LoadError(f"{printable(Path(self.file).name)}: {sentence}")
        return np.broadcast_to(found.reshape(-1, shape[-1]), (matrices, shape[-1]))


def read_importance(path: Path) -> Importance:
    """Reads both forms: GGUF, and the older binary one."""
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        return _read_gguf(path) if is_gguf else _read_old(path, path.read_bytes())
    except (OSError, ValueError) as e:
        what = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise LoadError(f"{printable(str(path))}: {what.lower()}") from None


def _read_gguf(path: Path) -> Importance:
    with open_model(path) as file:
        if file.get("general.type", str, "") != "imatrix":
            raise LoadError(f"{printable(path.name)}: is a GGUF file, but no importance matrix")
        names = [n.removesuffix(_SUMS) for n in file.tensors if n.endswith(_SUMS)]
        values = {name: _means(file, name) for name in names}
        datasets = file.get("imatrix.datasets", tuple, ())
        chunks = file.get("imatrix.chunk_count", int, 0)
    return Importance(values, str(path), ", ".join(datasets), chunks)


def _means(file: ModelFile, name: str) -> Floats:
    sums, counts = file.array(name + _SUMS), file.array(name + _COUNTS).reshape(-1, 1)
    if sums.size % counts.size or not (np.isfinite(sums).all() and np.isfinite(counts).all()):
        raise LoadError(
            f"{printable(file.path.name)}: tensor {shown(name)} has sums or counts that cannot be"
        )
    rows = sums.reshape(counts.size, -1)
    return np.where(counts > 0, rows / np.maximum(counts, 1), 1).astype(np.float32).reshape(-1)


def _read_old(path: Path, data: bytes) -> Importance:
    """Entries (name, number of calls, sums times calls), then the number of chunks and the text's name."""
    at = 0

    def take(n: int) -> bytes:
        nonlocal at
        if n < 0 or at + n > len(data):
            raise LoadError(f"{printable(path.name)}: is no importance matrix, or is cut short")
        at += n
        return data[at - n : at]

    def number() -> int:
        return int(_I32.unpack(take(4))[0])

    values: dict[str, Floats] = {}
    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        calls, n = number(), number()
        sums = np.frombuffer(take(4 * n), "<f4")
        if not np.isfinite(sums).all():
            raise LoadError(f"{printable(path.name)}: tensor {shown(name)} has values that are not finite")
        values[name] = (sums / max(calls, 1)).astype(np.float32)
    if not values:
        raise Error(f"{printable(path.name)}: the importance matrix is empty")
    chunks = number() if at < len(data) else 0
    datasets = take(number()).decode("utf-8", "replace") if at < len(data) else ""
    return Importance(values, str(path), datasets, chunks)
