"""What is collected for an importance matrix: sums of squared activations; written, read again and added up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import LoadError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.loader import open_model
from graphsched.gguf.write import aligned, encode_header
from graphsched.quantize.imatrix import COUNTS, SUMS, entries, read_importance, sums_of
from graphsched.types import dtypes
from graphsched.types.shapes import TensorType

Floats = NDArray[np.float32]
_I32: Final = Struct("<i")


@dataclass(frozen=True)
class Collected:
    """Sums of squared activations [matrices, columns] and how many rows each matrix saw [matrices], by tensor.

    chunks: pieces of text of `chunk_size` tokens that were read; datasets: the names of the texts.
    """

    sums: Mapping[str, Floats]
    counts: Mapping[str, NDArray[np.int64]]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int


def write_importance(path: Path, collected: "Collected", *, is_old: bool = False) -> None:
    """Writes what was collected as GGUF, or in the older binary form; the file appears when it is whole."""
    data = _old_bytes(collected) if is_old else _gguf_bytes(collected)
    check_target(path, len(data))
    with replacing(path) as file:
        file.write(data)


def read_collected(path: Path, chunk_size: int) -> Collected:
    """What a file holds. LoadError for one that is no importance matrix.

    The older form says how often an entry was seen in chunks, whose size it does not know.
    """
    known = read_importance(path)
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    if not is_gguf:
        rows = max(known.chunks, 1) * chunk_size
        sums = {name: (v * rows).reshape(1, -1) for name, v in known.values.items()}
        counts = {name: np.array([rows]) for name in sums}
        return Collected(sums, counts, (known.datasets,), known.chunks, chunk_size)
    with open_model(path) as model:
        found = {name: sums_of(model, name) for name in entries(model)}
        sums = {name: rows.copy() for name, (rows, _) in found.items()}
        counts = {name: n.astype(np.int64).reshape(-1) for name, (_, n) in found.items()}
        datasets = model.get("imatrix.datasets", tuple, ())
        size = model.get("imatrix.chunk_size", int, chunk_size)
    return Collected(sums, counts, datasets, known.chunks, size)


def added(files: Iterable[tuple[str, Collected]]) -> Collected:
    """The sum of what files hold, each with its name. LoadError, which names the file, for an entry of another size."""
    first, *rest = files
    total = first[1]
    for name, other in rest:
        total = _added(total, other, printable(name))
    return total


def _added(a: Collected, b: Collected, where: str) -> Collected:
    sums, counts = dict(a.sums), dict(a.counts)
    for name, values in b.sums.items():
        if name not in sums:
            sums[name], counts[name] = values, b.counts[name]
            continue
        if sums[name].size != values.size:
            sizes = f"{values.size} values, {sums[name].size} are needed"
            raise LoadError(f"{where}: tensor {shown(name)} has {sizes}")
        # The older form has one count for all matrices of a tensor.
        n = max(len(counts[name]), len(b.counts[name]))
        sums[name] = sums[name].reshape(n, -1) + values.reshape(n, -1)
        counts[name] = np.broadcast_to(counts[name], n) + np.broadcast_to(b.counts[name], n)
    datasets = tuple(dict.fromkeys((*a.datasets, *b.datasets)))
    return Collected(sums, counts, datasets, a.chunks + b.chunks, a.chunk_size)


def _gguf_bytes(c: Collected) -> bytes:
    types: dict[str, TensorType] = {}
    data = []
    for name in sorted(c.sums):
        for suffix, array in ((SUMS, c.sums[name]), (COUNTS, c.counts[name].reshape(-1, 1))):
            types[name + suffix] = TensorType(dtypes.F32, array.shape)
            raw = np.ascontiguousarray(array, "<f4").tobytes()
            data.append(raw.ljust(aligned(len(raw)), b"\0"))
    keys: dict[str, MetaValue] = {"general.type": "imatrix", "imatrix.datasets": c.datasets}
    keys |= {"imatrix.chunk_count": c.chunks, "imatrix.chunk_size": c.chunk_size}
    return encode_header(keys, types) + b"".join(data)


def _old_bytes(c: Collected) -> bytes:
    """Means of each matrix times the number of calls, for which the chunks stand; an unseen matrix counts as ones."""
    calls = max(c.chunks, 1)
    parts = [_I32.pack(len(c.sums))]
    for name in sorted(c.sums):
        counts = c.counts[name].reshape(-1, 1)
        means = np.where(counts > 0, c.sums[name] / np.maximum(counts, 1), 1)
        raw, text = (means * calls).astype("<f4").tobytes(), name.encode()
        parts.append(_I32.pack(len(text)) + text + _I32.pack(calls) + _I32.pack(means.size) + raw)
    text = ", ".join(c.datasets).encode()
    return b"".join(parts) + _I32.pack(c.chunks) + _I32.pack(len(text)) + text
