"""Model files out of others, tensors unchanged: split into parts, merged, or with other metadata."""

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from graphsched.errors import OptionError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.loader import ModelFile, TensorInfo
from graphsched.gguf.override import Override
from graphsched.gguf.write import aligned, encode_header
from graphsched.types.shapes import TensorType

Progress = Callable[[int, int], None]
_OF_PARTS: Final = ("split.no", "split.count", "split.tensors.count")
_LEFT_OUT: Final = ("general.alignment", *_OF_PARTS)  # files here have the usual alignment
_SIZE: Final = re.compile(r"(\d+)([MG])", re.IGNORECASE)
_UNITS: Final = {"M": 10**6, "G": 10**9}
_U16, _I32 = 2, 5
_MOST_PARTS: Final = 99_999
# Numbers of the type that a key has keep it where they fit: readers may insist.
_PACKED: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q", 6: "f", 12: "d"}


def parse_size(flag: str, text: str) -> int:
    """Bytes of N(M|G) as llama-gguf-split takes it."""
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise OptionError(f"{flag} {shown(text)}: a number with M or G behind it is needed")
    return int(match[1]) * _UNITS[match[2].upper()]


def groups_of(
    tensors: Iterable[TensorInfo], *, most: int = 0, size: int = 0, empty_first: bool = False
) -> list[list[TensorInfo]]:
    """Tensors by part, in order: at most `most` of them, or of `size` bytes (0: no limit); one is never divided.

    With `empty_first` the first part has metadata only.
    """
    groups: list[list[TensorInfo]] = [[], []] if empty_first else [[]]
    used = 0
    for t in tensors:
        n = aligned(t.nbytes)
        if groups[-1] and ((most and len(groups[-1]) >= most) or (size and used + n > size)):
            groups.append([])
            used = 0
        groups[-1].append(t)
        used += n
    if len(groups) > _MOST_PARTS:
        raise OptionError(f"{len(groups)} parts are too many, {_MOST_PARTS} are possible")
    return groups


def shard_path(prefix: Path, no: int, count: int) -> Path:
    """The path of shard `no` (from 0) as llama.cpp names it: NAME-00001-of-00003.gguf; NAME.gguf if it is alone."""
    stem = prefix.name.removesuffix(".gguf")
    return prefix.with_name(f"{stem}-{no + 1:05}-of-{count:05}.gguf" if count > 1 else f"{stem}.gguf")


def shard_keys(no: int, count: int, n_tensors: int) -> dict[str, MetaValue | bytes]:
    """The split.* keys of one shard, in the types that llama.cpp insists on; {} if it is the only one."""
    if count == 1:
        return {}
    return {
        "split.no": struct.pack("<IH", _U16, no),
        "split.count": struct.pack("<IH", _U16, count),
        "split.tensors.count": struct.pack("<Ii", _I32, n_tensors),
    }


def kept_metadata(file: ModelFile) -> dict[str, MetaValue | bytes]:
    """A file's metadata as it is stored, but for what only its parts and alignment need."""
    return {k: file.encoded(k) for k in file.metadata if k not in _LEFT_OUT}


def changed_metadata(
    file: ModelFile, sets: Sequence[Override], removes: Sequence[str] = ()
) -> tuple[dict[str, MetaValue | bytes], list[str]]:
    """The metadata with keys set and removed, and a line about each change. OptionError for a key that is not there."""
    metadata, lines = kept_metadata(file), []
    for key in removes:
        if key not in metadata:
            raise OptionError(f"--remove {shown(key)}: {printable(file.path.name)} has no such key")
        del metadata[key]
        lines.append(f"{shown(key)}: removed")
    for o in sets:
        old = file.encoded(o.key) if o.key in metadata else b""
        metadata[o.key] = _typed(o.value, old)
        before = shown(str(file.metadata[o.key])) if old else "none"
        lines.append(f"{shown(o.key)}: {before} -> {shown(str(o.value))}")
    return metadata, lines


def _typed(value: bool | int | float | str, old: bytes) -> MetaValue | bytes:
    """A number in the type that the key had, if that can hold it."""
    kind = int.from_bytes(old[:4], "little") if old else -1
    is_number = type(value) in (int, float) and kind in _PACKED
    if not is_number or (type(value) is float and _PACKED[kind] not in "fd"):
        return value
    try:
        return struct.pack(f"<I{_PACKED[kind]}", kind, value)
    except (struct.error, OverflowError):
        return value


def write_copy(
    file: ModelFile,
    out: Path,
    metadata: Mapping[str, MetaValue | bytes],
    tensors: Sequence[TensorInfo],
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes OUT with these keys and some of the file's tensors; it appears when it is whole."""
    types = {t.name: TensorType(t.dtype, t.shape) for t in tensors}
    head = encode_header(metadata, types)
    total, done = sum(t.nbytes for t in tensors), 0
    check_target(out, len(head) + total)  # a full disk is found before an hour of copying
    with replacing(out) as target:
        target.write(head)
        for t in tensors:
            target.write(file.raw(t.name).data)
            target.write(bytes(aligned(t.nbytes) - t.nbytes))
            done += t.nbytes
            progress(done, total)


def split(
    file: ModelFile,
    prefix: Path,
    groups: Sequence[Sequence[TensorInfo]],
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Writes a part for each group; the paths. Metadata is in the first, as llama.cpp has it."""
    count, n_tensors = len(groups), sum(map(len, groups))
    paths = [shard_path(prefix, no, count) for no in range(count)]
    check_not_read(file, paths)
    for no, (path, group) in enumerate(zip(paths, groups, strict=True)):
        own = kept_metadata(file) if no == 0 else {}
        write_copy(file, path, own | shard_keys(no, count, n_tensors), group)
        progress(no + 1, count)
    return paths


def check_not_read(file: ModelFile, paths: Iterable[Path]) -> None:
    """OptionError if one of the paths is a file that is read from."""
    for path in paths:
        if path.exists() and any(path.samefile(part) for part in file.parts if part.exists()):
            raise OptionError(f"{printable(str(path))}: is the file that is read, which is not overwritten")
