"""Kernel signatures, read from their declarations: arguments are checked for count and type, and packed."""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphsched.errors import Error

DECLARATION = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)', re.DOTALL
)
SCALARS: dict[str, Any] = {
    "int": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "float": ctypes.c_float,
}
RANGES = {
    "int": (-(2**31), 2**31 - 1),
    "u32": (0, 2**32 - 1),
    "i64": (-(2**63), 2**63 - 1),
    "u64": (0, 2**64 - 1),
}


class KernelError(Error):
    """A kernel call that does not fit its declaration, or a kernel that failed."""


@dataclass(frozen=True)
class Signature:
    """`name(float* y, int n)`: types is ("float*", "int"), names is ("y", "n")."""

    name: str
    types: tuple[str, ...]
    names: tuple[str, ...]

    def pack(self, args: Sequence[object]) -> list[Any]:
        """Arguments as ctypes scalars, pointers as 64-bit addresses; a wrong count or type raises."""
        if len(args) != len(self.types):
            raise KernelError(f"{self.name} takes {len(self.types)} arguments ({self}), got {len(args)}")
        return [self._one(i, a) for i, a in enumerate(args)]

    def _one(self, i: int, value: object) -> Any:
        kind = self.types[i]
        if kind.endswith("*"):
            return ctypes.c_uint64(self._address(i, value))
        if kind == "float":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._bad(i, value)
            return ctypes.c_float(value)
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise self._bad(i, value)
        n, (low, high) = int(value.__index__()), RANGES[kind]
        if not low <= n <= high:
            raise KernelError(f"{self.name}: {kind} {self.names[i]} cannot hold {n}")
        return SCALARS[kind](n)

    def _address(self, i: int, value: object) -> int:
        """An int, None (a null pointer), or anything with `.handle` (a device buffer)."""
        handle = getattr(value, "handle", value)
        if handle is None:
            return 0
        if isinstance(handle, bool | float) or not hasattr(handle, "__int__"):
            raise self._bad(i, value)
        return int(handle)

    def _bad(self, i: int, value: object) -> KernelError:
        return KernelError(f"{self.name}: {self.types[i]} {self.names[i]} cannot take {type(value).__name__}")

    def __str__(self) -> str:
        return ", ".join(f"{t} {n}" for t, n in zip(self.types, self.names, strict=True))


def parse(source: str) -> dict[str, Signature]:
    """Every kernel that `source` declares, by name."""
    return {m[1]: _signature(m[1], m[2]) for m in DECLARATION.finditer(source)}


def _signature(name: str, params: str) -> Signature:
    types, names = [], []
    for p in filter(None, (" ".join(p.split()) for p in params.split(","))):
        kind, _, ident = p.replace("const ", "").replace("__restrict__ ", "").rpartition(" ")
        if not kind.endswith("*") and kind not in SCALARS:
            raise KernelError(f"{name}: a parameter of type {kind!r} cannot be packed")
        types.append(kind)
        names.append(ident)
    return Signature(name, tuple(types), tuple(names))
