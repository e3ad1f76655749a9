"""Importance matrices: how large the activations of each column were, as llama-imatrix writes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, LoadError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.given import Given, named
from graphsched.gguf.loader import ModelFile, open_model
from graphsched.graph.tensor import layer_of

Floats = NDArray[np.float32]
_I32: Final = Struct("<i")
SUMS, COUNTS = ".in_sum2", ".counts"
_WITHOUT: Final = ("token_embd.weight", "output.weight")  # usually not collected


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

    def only(self, include: Sequence[str], exclude: Sequence[str]) -> tuple["Importance", tuple[Given, ...]]:
        """The entries whose names have one of `include` in them (all if that is empty) and none of `exclude`.

        Also each of these texts with the number of entries that it is in.
        """
        kept = {
            name: v
            for name, v in self.values.items()
            if (not include or any(i in name for i in include)) and not any(e in name for e in exclude)
        }
        texts = [("--include-weights", t) for t in include] + [("--exclude-weights", t) for t in exclude]
        given = tuple(Given(f"{flag} {t}", sum(t in name for name in self.values)) for flag, t in texts)
        return replace(self, values=kept), given

    def renamed(self, names: Mapping[str, str]) -> "Importance":
        """The entries by the new names of tensors; those of tensors that go go, too, all others stay."""
        gone = {name for name in self.values if layer_of(name) >= 0 and name not in names}
        values = {names.get(name, name): v for name, v in self.values.items() if name not in gone}
        return replace(self, values=values)


def coverage(
    importance: Importance, quantised: Mapping[str, tuple[int, ...]], tensors: Iterable[str]
) -> tuple[str, ...]:
    """Sentences about tensors without values and values without a tensor.

    quantised: shapes of what is searched with importance; tensors: all names of the model. LoadError if none of them
    has values, or one has a wrong number.
    """
    for name, shape in quantised.items():
        importance.of(name, shape)
    wanted, known, where = list(quantised), set(tensors), printable(Path(importance.file).name)
    hits = [name for name in wanted if name in importance.values]
    # A matrix of another model names none of these tensors: quantising without it would go unnoticed.
    if wanted and not hits:
        names = f"it has {shown(next(iter(importance.values), 'nothing'))}, the model {shown(wanted[0])}"
        raise LoadError(
            f"{where}: has values for none of the {len(wanted)} tensors that are quantised; {names}"
        )
    lacking = [n for n in wanted if n not in importance.values and n not in _WITHOUT]
    strange = [n for n in importance.values if n not in known]
    notes = []
    if lacking:
        notes.append(f"{where}: has no values for {len(lacking)} of {len(wanted)} tensors, {named(lacking)}")
    if strange:
        notes.append(f"{where}: {len(strange)} entries are of no tensor of the model, {named(strange)}")
    return tuple(notes)


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
        values = {name: _means(file, name) for name in entries(file)}
        datasets = file.get("imatrix.datasets", tuple, ())
        chunks = file.get("imatrix.chunk_count", int, 0)
    return Importance(values, str(path), ", ".join(datasets), chunks)


def entries(file: ModelFile) -> list[str]:
    """Names of the tensors that an importance matrix is about. LoadError for another GGUF file."""
    if file.get("general.type", str, "") != "imatrix":
        raise LoadError(f"{printable(file.path.name)}: is a GGUF file, but no importance matrix")
    return [n.removesuffix(SUMS) for n in file.tensors if n.endswith(SUMS)]


def _means(file: ModelFile, name: str) -> Floats:
    rows, counts = sums_of(file, name)
    return np.where(counts > 0, rows / np.maximum(counts, 1), 1).astype(np.float32).reshape(-1)


def sums_of(file: ModelFile, name: str) -> tuple[Floats, Floats]:
    """Sums [matrices, columns] and counts [matrices, 1] of a tensor. LoadError for values that cannot be."""
    sums, counts = file.array(name + SUMS), file.array(name + COUNTS).reshape(-1, 1)
    if sums.size % counts.size or not (np.isfinite(sums).all() and np.isfinite(counts).all()):
        raise LoadError(
            f"{printable(file.path.name)}: tensor {shown(name)} has sums or counts that cannot be"
        )
    return sums.reshape(counts.size, -1), counts


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
    # Older files end here, without number of chunks and name of the text.
    chunks = number() if at < len(data) else 0
    datasets = take(number()).decode("utf-8", "replace") if at < len(data) else ""
    return Importance(values, str(path), datasets, chunks)
