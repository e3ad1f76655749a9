"""Finds the weight files of a folder, by its index or by the usual names, and checks that none is missing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graphsched.convert.config import read_json
from graphsched.errors import LoadError
from graphsched.gguf.format import printable, shown

_PART: Final = re.compile(r"(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})(?P<kind>\.\w+)", re.DOTALL)
# Index, the name of a single file, and all names; what comes first is taken.
_LAYOUTS: Final = (
    ("model.safetensors.index.json", "model.safetensors", "model*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model*.bin"),
)


@dataclass(frozen=True)
class WeightFiles:
    """Files to read, the index's file of each tensor ({} without an index), and files with weights left alone."""

    files: tuple[Path, ...]
    index: Mapping[str, str]
    index_name: str
    ignored: tuple[str, ...]


def weight_files(folder: Path) -> WeightFiles:
    """The files with a folder's weights; LoadError if one is missing, or if there are none."""
    for index, single, pattern in _LAYOUTS:
        if (folder / index).exists():
            found = _indexed(folder / index)
            return _found(folder, sorted({*found.values()}), found, index)
        names = sorted(p.name for p in folder.glob(pattern) if p.is_file())
        if names:
            return _found(folder, [single] if single in names else names, {}, index)
    if (folder / "adapter_config.json").exists():
        raise LoadError(
            f"{printable(str(folder))}: is an adapter, which has to be merged into its model first"
        )
    others = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated"))
    if not others:
        what = "there are no safetensors files and no pytorch_model.bin"
        raise LoadError(f"{printable(str(folder))}: {what}")
    return _found(folder, others, {}, "")


def _indexed(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise LoadError(f"{index.name}: has no weight_map")
    for name in sorted({str(n) for n in found.values()}):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise LoadError(f"{index.name}: names the file {shown(name)}, which is not there")
    return {str(tensor): str(name) for tensor, name in found.items()}


def _found(folder: Path, names: list[str], index: Mapping[str, str], index_name: str) -> WeightFiles:
    _check_shards(folder, names)
    patterns = ("*.safetensors", "pytorch_model*.bin")
    ignored = {p.name for pattern in patterns for p in folder.glob(pattern)} - set(names)
    return WeightFiles(tuple(folder / n for n in names), index, index_name, tuple(sorted(ignored)))


def _check_shards(folder: Path, names: list[str]) -> None:
    """Of files called NAME-00001-of-0000N all N must be there."""
    for match in filter(None, map(_PART.fullmatch, names)):
        stem, count, kind = match["stem"], int(match["count"]), match["kind"]
        for no in range(1, count + 1):
            name = f"{stem}-{no:05}-of-{count:05}{kind}"
            if not (folder / name).is_file():
                raise LoadError(f"{printable(folder.name)}: part {no} of {count} is missing, {shown(name)}")


def check_index(found: WeightFiles, files_of: Mapping[str, str]) -> None:
    """LoadError if the index lists a tensor that its file lacks; `files_of` is what the files hold."""
    lost = [name for name, file in found.index.items() if files_of.get(name) != file]
    if lost:
        more = f" and {len(lost) - 1} more" if lost[1:] else ""
        where = f"{found.index_name}: lists tensor {shown(lost[0])}{more}"
        raise LoadError(f"{where}, which {shown(found.index[lost[0]])} lacks")
