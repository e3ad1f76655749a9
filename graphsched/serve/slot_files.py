"""Slots in files: a sequence saved to a file, and read back by a server with the same model and caches.

A file is a .npz of numpy, whose arrays have checksums: a header in JSON, the tokens, and each cache's bytes. It appears
whole or not at all.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error
from graphsched.gguf.atomic import replacing
from graphsched.gguf.format import printable
from graphsched.session.engine import Engine
from graphsched.session.model import Model
from graphsched.session.saved import Saved
from graphsched.session.slots import Block

VERSION: Final = 1
_SAMPLE: Final = 256  # bytes of each weight that tell models apart


@dataclass(frozen=True)
class SavedFile:
    """What was saved or restored: tokens, bytes of the file, and the milliseconds that it took."""

    tokens: int
    bytes: int
    ms: float


def write(path: Path, saved: Saved, engine: Engine) -> int:
    """Writes a file; its bytes. Error, one sentence, if it cannot be written: then nothing has changed."""
    arrays: dict[str, NDArray[Any]] = {"tokens": saved.tokens}
    for kind, block in saved.cells.items():
        arrays |= {f"cells{kind}/{name}": values for name, values in block.values.items()}
    arrays |= {f"states/{name}": values for name, values in saved.states.items()}
    header = _header(engine) | {
        "cells": {kind: [block.first, block.end] for kind, block in saved.cells.items()},
        "places": saved.places,
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # names are keywords of arrays
        return file.tell()


def read(path: Path, engine: Engine) -> Saved:
    """What a file holds. Error, one sentence, if there is none, or it is damaged, or another model's or cache's."""
    name = printable(str(path))
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            _check(name, header, _header(engine))
            return _saved(name, header, file, engine)
    except OSError as e:
        raise Error(f"{name}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError):
        raise Error(f"{name}: is damaged, or no saved slot") from None


def _header(engine: Engine) -> dict[str, Any]:
    return {"version": VERSION, "model": digest(engine.model), "caches": engine.slots.layout}


def _check(name: str, header: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if header["version"] != own["version"]:
        raise Error(f"{name}: has version {header['version']}, this program reads version {own['version']}")
    if header["model"] != own["model"]:
        raise Error(f"{name}: was saved with another model")
    if header["caches"] != own["caches"]:
        raise Error(f"{name}: was saved with caches of other types (-ctk, -ctv, -mla)")


def _saved(name: str, header: Mapping[str, Any], file: Mapping[str, Any], engine: Engine) -> Saved:
    tokens = _array(file["tokens"], np.int32, 1)
    if len(tokens) > engine.n_ctx:
        raise Error(
            f"{name}: has {len(tokens)} tokens, the context holds {engine.n_ctx}; a larger one is -c N"
        )
    cells = {
        kind: Block(int(first), int(end), dict(_of(f"cells{kind}/", file, int(end) - int(first))))
        for kind, (first, end) in header["cells"].items()
    }
    places = tuple(map(int, header["places"]))
    states = dict(_of("states/", file, len(places)))
    spans = {kind: (i.blocks.window, i.blocks.chunk) for kind, i in engine.slots.inputs.items()}
    saved = Saved(tokens, cells, places, states, spans)
    if not saved.fits(engine.slots):
        raise ValueError
    return saved


def _of(prefix: str, file: Mapping[str, Any], n: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for key in file:
        if key.startswith(prefix):
            values = _array(file[key], np.uint8, 2)
            if len(values) != n:
                raise ValueError
            yield key.removeprefix(prefix), values


def _array(values: Any, dtype: Any, n_dims: int) -> NDArray[Any]:
    found: NDArray[Any] = values
    if found.dtype != dtype or found.ndim != n_dims:
        raise ValueError
    return found


def digest(model: Model) -> str:
    """What tells models apart: the configuration, names, types and shapes of all weights, the first bytes of each."""
    found = hashlib.sha256(repr(model.config).encode())
    for name, info in sorted(model.file.tensors.items()):
        found.update(f"{name} {info.dtype} {tuple(info.shape)};".encode())
        found.update(model.file.raw(name)[:_SAMPLE].tobytes())
    return found.hexdigest()


def inside(folder: Path | None, name: str) -> Path:
    """The file of that name in the folder of saved slots. Error if there is no folder, or the name leads out of it."""
    if folder is None:
        raise Error("slots are not saved, --slot-save-path DIR says where they are to be")
    if not name or name != os.path.basename(name) or name in (".", "..") or "\0" in name or "\\" in name:
        raise Error(f"filename {printable(name)!r} is no plain file name")
    return folder / name
