"""A conversion as files: tensor by tensor, a piece of each at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.model import Conversion
from graphsched.convert.recipes import Recipe, rows_at_once
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.copy import groups_of, shard_keys, shard_path
from graphsched.gguf.file import TensorInfo
from graphsched.gguf.format import shown
from graphsched.gguf.write import aligned, encode_header
from graphsched.quantize.cast import encode
from graphsched.types.dtypes import DType


def write(
    conversion: Conversion,
    out: Path,
    *,
    most: int = 0,
    size: int = 0,
    begin: Callable[[Recipe, DType], None] = lambda recipe, dtype: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes OUT, or parts of it with at most `most` tensors or `size` bytes; each appears when it is whole."""
    types = conversion.types
    infos = [TensorInfo(name, t.shape, t.dtype, 0, t.nbytes) for name, t in types.items()]
    groups = groups_of(infos, most=most, size=size)
    check_target(out, sum(aligned(t.nbytes) for t in types.values()))
    task = _Task(conversion, sum(t.numel for t in types.values()), begin, progress)
    for no, group in enumerate(groups):
        keys = {**(conversion.keys if no == 0 else {}), **shard_keys(no, len(groups), len(types))}
        head = encode_header(keys, {t.name: types[t.name] for t in group})
        task.write(shard_path(out, no, len(groups)) if groups[1:] else out, head, [t.name for t in group])


@dataclass
class _Task:
    """The files that are written, one after the other, and how many weights that is by now."""

    conversion: Conversion
    total: int
    begin: Callable[[Recipe, DType], None]
    progress: Callable[[int, int], None]
    done: int = 0

    def write(self, out: Path, head: bytes, names: Sequence[str]) -> None:
        with replacing(out) as file:
            file.write(head)
            for recipe, dtype in map(self.conversion.tensors.__getitem__, names):
                self.begin(recipe, dtype)
                size = 0
                for data in _data(recipe, dtype):
                    file.write(data.data)
                    size += data.nbytes
                file.write(bytes(aligned(size) - size))
                self.done += int(np.prod(recipe.shape, dtype=np.int64))
                self.progress(self.done, self.total)


def _data(recipe: Recipe, dtype: DType) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes, matrix by matrix."""
    tails = []
    for make in recipe.parts:
        w = make()
        step = rows_at_once(w.shape)
        for first in range(0, len(w), step):
            raw = encode(w[first : first + step], dtype, f"{shown(recipe.name)}:")
            tails.append(raw[raw.size - dtype.tail :].copy())  # a view would keep all of it
            yield raw[: raw.size - dtype.tail]
    if dtype.tail:
        yield np.stack(tails).view("<f4").max(axis=0).view(np.uint8)
