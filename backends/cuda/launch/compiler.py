"""Kernel files → one header-free source → cubin for one architecture, kept on disk."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphsched import disk_cache
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver.signature import Signature, parse

KERNELS = Path(__file__).parents[1] / "kernels"
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)
# what follows in a .cu file is repeated for every weight type, or for every type and shape ("f16_64_64_8")
PER_TYPE = re.compile(r"^//@ for ([A-Z_]+)\n", re.MULTILINE)
# 177 is a function without use: no kernel file needs every wrapper
OPTIONS = ("--std=c++17", "--ptxas-options=-v", "--diag-suppress=177")


@dataclass(frozen=True)
class Module:
    """A compiled source: machine code and what its kernels take."""

    cubin: bytes
    signatures: dict[str, Signature]


@cache
def assemble(stem: str, types: tuple[str, ...] = ()) -> str:
    """The text of `stem`.cu with its includes in place and its per-type part once for each of `types`."""
    text = _inlined(f"{stem}.cu", set())
    mark = PER_TYPE.search(text)
    if mark is None:
        return text
    return text[: mark.start()] + "".join(_filled(mark[1], text[mark.end() :], t) for t in types)


def _filled(name: str, text: str, value: str) -> str:
    words = name.split("_")
    text = text.replace(name, value)
    for word, part in zip(words, value.rsplit("_", len(words) - 1), strict=True):
        text = re.sub(rf"\b{word}\b", part, text)
    return text


def _inlined(name: str, seen: set[str]) -> str:
    def expand(m: re.Match[str]) -> str:
        if m[1] in seen:
            return ""
        seen.add(m[1])
        return _inlined(m[1], seen)

    return INCLUDE.sub(expand, (KERNELS / name).read_text())


def build(source: str, arch: str, defines: Sequence[str] = ()) -> Module:
    """`source` for `arch` ("sm_90"): compiled once per source, options and NVRTC, then read from disk."""
    flags = options(arch, defines)
    path = cache_dir() / f"{_digest(source, *flags, driver.nvrtc_version())}.cubin"
    cubin = disk_cache.read(path)
    if cubin is None:
        cubin, _ = driver.compile_cubin(source, flags)
        disk_cache.write(path, cubin)
    return Module(cubin, parse(source))


def options(arch: str, defines: Sequence[str] = ()) -> tuple[str, ...]:
    """What NVRTC is told for kernels of an architecture."""
    return (f"--gpu-architecture={arch}", *OPTIONS, *(f"-D{d}" for d in defines))


def cache_dir() -> Path:
    """Where cubins are kept: below GRAPHSCHED_CACHE_DIR, or below graphsched in the user's cache folder."""
    return disk_cache.folder() / "cubin"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
