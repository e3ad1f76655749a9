"""Which CPUs threads may run on: `--cpu-mask`, `--cpu-range` and `--cpu-strict`, as in llama.cpp."""

import os
from collections.abc import Iterable

from graphsched.errors import OptionError

Pins = tuple[frozenset[int], ...]  # the CPUs of each thread


def usable_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def parse_mask(given: str | Iterable[int]) -> frozenset[int]:
    """The CPUs of a hexadecimal mask, or of their numbers; "" for any. OptionError for others than we may use."""
    if not isinstance(given, str):
        return _numbers(given)
    try:
        bits = int(given or "0", 16)
    except ValueError:
        bits = 0
    if given and not 0 < bits < 1 << 4096:
        raise OptionError(f"is {given}, a hexadecimal number such as 0x3 is needed")
    return _allowed(frozenset(i for i in range(bits.bit_length()) if bits >> i & 1), given)


def parse_range(given: str | Iterable[int]) -> frozenset[int]:
    """The CPUs of a range lo-hi, or of their numbers; "" for any. OptionError for others than we may use."""
    if not isinstance(given, str):
        return _numbers(given)
    if not given:
        return frozenset()
    first, dash, last = given.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 4096):
        raise OptionError(f"is {given}, two CPUs such as 0-3 are needed")
    return _allowed(frozenset(range(int(first), int(last) + 1)), given)


def _numbers(given: Iterable[int]) -> frozenset[int]:
    try:
        return _allowed(frozenset(map(int, given)), given)
    except (TypeError, ValueError):
        raise OptionError(f"is {given!r}, numbers of CPUs are needed") from None


def _allowed(cpus: frozenset[int], given: object) -> frozenset[int]:
    if cpus and not hasattr(os, "sched_setaffinity"):
        raise OptionError(f"is {given}: this system does not let a program choose CPUs")
    if foreign := sorted(cpus - usable_cpus()):
        raise OptionError(f"is {given}: CPU {foreign[0]} is not one that we may use, {listed(usable_cpus())}")
    return cpus


def pins(cpus: frozenset[int], strict: bool, n_threads: int) -> Pins:
    """The CPUs of each thread: all of `cpus`, or with `strict` one each in turn; () leaves it to the system."""
    if strict:
        order = sorted(cpus or usable_cpus())
        return tuple(frozenset({order[i % len(order)]}) for i in range(n_threads))
    return (cpus,) * n_threads if cpus else ()


def mask(cpus: Iterable[int]) -> str:
    """CPUs as --cpu-mask takes them; empty for none."""
    bits = sum(1 << cpu for cpu in cpus)
    return hex(bits) if bits else ""


def listed(cpus: Iterable[int]) -> str:
    """0-3, 6"""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)
