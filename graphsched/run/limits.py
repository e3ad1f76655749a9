"""What a container leaves to a process: quotas of cores and limits of memory, in control groups of both versions.

A group is limited by all groups above it, so the smallest limit on the way up to the root counts. In version 1 each
controller has a tree of its own, in version 2 there is one for all.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from graphsched.run.affinity import usable_cpus

ROOT: Final = Path("/")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class _Tree:
    """A mounted tree of groups: its controllers (none are named in version 2), the group at its top, its folder."""

    controllers: frozenset[str]
    top: PurePosixPath
    folder: Path


@functools.cache
def core_quota(root: Path = ROOT) -> float:
    """Cores that the groups of this process may use at a time; infinite where nothing limits them.

    `root` is the folder that the system's files are read below.
    """
    return _smallest("cpu", _cores, root)


@functools.cache
def memory_limit(root: Path = ROOT) -> float:
    """Bytes of memory that the groups of this process may use; infinite where nothing limits them."""
    return _smallest("memory", _bytes, root)


def _smallest(controller: str, limit: Callable[[Path], float], root: Path) -> float:
    return min(map(limit, _groups(controller, root)), default=math.inf)


def _cores(group: Path) -> float:
    words = _words(group / "cpu.max")
    if not words:  # version 1 has two files
        words = [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(words) != 2 or "max" in words or min(map(int, words)) <= 0:
        return math.inf
    return int(words[0]) / int(words[1])


def _bytes(group: Path) -> float:
    for name in ("memory.max", "memory.limit_in_bytes"):
        if (words := _words(group / name)) and words[0] != "max":
            return int(words[0])
    return math.inf


def _words(file: Path) -> list[str]:
    """The words of a file of numbers; none where it cannot be read, or holds anything else."""
    with suppress(OSError, UnicodeDecodeError):
        words = file.read_text().split()
        if all(word == "max" or re.fullmatch(r"-?\d+", word) for word in words):
            return words
    return []


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of those above it, in every tree that has the controller."""
    trees = [tree for line in _lines(root / "proc/self/mountinfo") if (tree := _tree(line, root))]
    for line in _lines(root / "proc/self/cgroup"):
        if line.count(":") < 2:
            continue
        _, names, path = line.split(":", 2)
        controllers = frozenset(filter(None, names.split(",")))
        if controllers and controller not in controllers:
            continue
        for tree in trees:
            if tree.controllers == controllers or controllers & tree.controllers:
                yield from _upwards(tree, PurePosixPath(path))


def _upwards(tree: _Tree, group: PurePosixPath) -> Iterator[Path]:
    """From a group to the top of its tree; a container often sees its own group as the top, under another name."""
    inside = group.is_relative_to(tree.top) and ".." not in group.parts
    below = group.relative_to(tree.top) if inside else PurePosixPath()
    yield from (tree.folder / part for part in (below, *below.parents))


def _tree(mount: str, root: Path) -> _Tree | None:
    """The tree that a line of mountinfo is about, None for other file systems."""
    before, _, after = mount.partition(" - ")
    at, fields = before.split(" "), after.split(" ")
    if len(at) < 5 or len(fields) < 3 or fields[0] not in ("cgroup", "cgroup2"):
        return None
    controllers = frozenset(fields[2].split(",")) if fields[0] == "cgroup" else frozenset[str]()
    top, folder = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), path) for path in at[3:5])
    return _Tree(controllers, PurePosixPath(top), root / folder.lstrip("/"))


def _lines(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text(errors="replace").splitlines()
    return []


def usable_cores() -> int:
    """Cores that affinity and the quotas of containers allow."""
    return max(1, int(min(len(usable_cpus()), core_quota())))
