"""A model file's metadata and tensors for `graphsched inspect`, as plain data and as tables."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from graphsched.gguf.format import shown
from graphsched.gguf.loader import MetaValue, ModelFile, TensorInfo

_FIRST: Final = 8  # items that a long array shows


def summary(model: ModelFile) -> dict[str, Any]:
    """The model as JSON-ready data; an array of more than 8 items becomes its length and its first 8."""
    tensors = list(model.tensors.values())
    weights, nbytes = sum(map(_weights, tensors)), sum(t.nbytes for t in tensors)
    return {
        "file": str(model.path),
        "parts": [str(p) for p in model.parts],
        "gguf_version": model.version,
        "alignment": model.alignment,
        "architecture": _plain(model.metadata.get("general.architecture", "")),
        "name": _plain(model.metadata.get("general.name", "")),
        "weights": weights,
        "bytes": nbytes,
        "bits_per_weight": round(8 * nbytes / weights, 3) if weights else None,
        "types": _types(tensors),
        "metadata": {key: _plain(value) for key, value in model.metadata.items()},
        "tensors": [_row(t) for t in tensors],
    }


def render(data: Mapping[str, Any]) -> Group:
    """The tables of a `summary`."""
    head = _table("", "")
    for key in ("file", "gguf_version", "architecture", "name"):
        head.add_row(key, _cell(data[key]))
    head.add_row("tensors", f"{len(data['tensors'])} in {len(data['parts'])} file(s)")
    bits = "" if data["bits_per_weight"] is None else f", {data['bits_per_weight']} bits per weight"
    head.add_row("size", f"{data['weights']:,} weights, {data['bytes']:,} bytes{bits}")
    tables = [_metadata_table(data)] + ([_type_table(data), _tensor_table(data)] if data["tensors"] else [])
    return Group(head, *(part for table in tables for part in ("", table)))


def _type_table(data: Mapping[str, Any]) -> Table:
    table = _table("type", ">tensors", ">weights", ">bytes")
    for name, row in data["types"].items():
        table.add_row(name, *(f"{row[key]:,}" for key in ("tensors", "weights", "bytes")))
    return table


def _metadata_table(data: Mapping[str, Any]) -> Table:
    table = _table("key", "value")
    for key, value in data["metadata"].items():
        table.add_row(_cell(key), _cell(value))
    return table


def _tensor_table(data: Mapping[str, Any]) -> Table:
    table = _table("tensor", ">shape", "type", ">bytes", ">part", ">offset")
    for t in data["tensors"]:
        shape = " × ".join(map(str, t["shape"]))
        table.add_row(_cell(t["name"]), shape, t["type"], f"{t['bytes']:,}", str(t["part"]), str(t["offset"]))
    return table


def _table(*columns: str) -> Table:
    """A table without lines; a column whose name starts with > is aligned right."""
    table = Table(box=None, pad_edge=False, show_header=any(columns), padding=(0, 2, 0, 0))
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    return table


def _cell(value: Any) -> Text:
    """A value from the file on one line; as Text, because in a str rich would obey [markup]."""
    if isinstance(value, dict):
        items = ", ".join(str(_cell(v)) for v in value["first"])
        return Text(f"{value['length']:,} items: {items}, ...")
    if isinstance(value, list):
        return Text(", ".join(str(_cell(v)) for v in value))
    return Text(f"{value:.7g}" if isinstance(value, float) else shown(str(value)))  # most floats are F32


def _types(tensors: list[TensorInfo]) -> dict[str, dict[str, int]]:
    """Tensors, weights and bytes of each type, the type with most bytes first."""
    count, weights, nbytes = Counter[str](), Counter[str](), Counter[str]()
    for t in tensors:
        count[t.dtype.name] += 1
        weights[t.dtype.name] += _weights(t)
        nbytes[t.dtype.name] += t.nbytes
    return {
        name: {"tensors": count[name], "weights": weights[name], "bytes": size}
        for name, size in nbytes.most_common()
    }


def _row(t: TensorInfo) -> dict[str, Any]:
    return {
        "name": t.name,
        "shape": list(t.shape),
        "type": t.dtype.name,
        "bytes": t.nbytes,
        "part": t.part,
        "offset": t.offset,
    }


def _weights(t: TensorInfo) -> int:
    return math.prod(t.shape)


def _plain(value: MetaValue) -> Any:
    """JSON has no numpy, no tuples and no infinities."""
    if isinstance(value, tuple | np.ndarray):
        first = [
            _plain(v) for v in (value[:_FIRST].tolist() if isinstance(value, np.ndarray) else value[:_FIRST])
        ]
        return first if len(value) <= _FIRST else {"length": len(value), "first": first}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
