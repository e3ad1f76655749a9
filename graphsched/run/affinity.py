"""Which CPUs threads may run on: `--cpu-mask`, `--cpu-range` and `--cpu-strict`, as in llama.cpp."""

import os

from graphsched.errors import OptionError

Pins = tuple[frozenset[int], ...]  # the CPUs of each thread


def usable_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def chosen_cpus(mask: str, span: str) -> frozenset[int]:
    """The CPUs of a hexadecimal mask and of a range lo-hi, those of both if both are given; empty for any.

    OptionError for a text that is neither, and for CPUs that this process may not use.
    """
    chosen = _of_mask(mask) | _of_range(span)
    if (mask or span) and not hasattr(os, "sched_setaffinity"):
        raise OptionError("this system does not let a program choose CPUs")
    if foreign := sorted(chosen - usable_cpus()):
        raise OptionError(f"CPU {foreign[0]} is not one that this process may use, {_listed(usable_cpus())}")
    return chosen


def pins(mask: str, span: str, strict: bool, n_threads: int) -> Pins:
    """The CPUs of each thread: all that were chosen, or with `strict` one each in turn; () leaves it to the system."""
    cpus = chosen_cpus(mask, span)
    if strict:
        order = sorted(cpus or usable_cpus())
        return tuple(frozenset({order[i % len(order)]}) for i in range(n_threads))
    return (cpus,) * n_threads if cpus else ()


def _of_mask(mask: str) -> frozenset[int]:
    if not mask:
        return frozenset()
    try:
        bits = int(mask, 16)
    except ValueError:
        bits = 0
    if not 0 < bits < 1 << 4096:
        raise OptionError(f"--cpu-mask is {mask}, a hexadecimal number such as 0x3 is needed")
    return frozenset(i for i in range(bits.bit_length()) if bits >> i & 1)


def _of_range(span: str) -> frozenset[int]:
    if not span:
        return frozenset()
    first, dash, last = span.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 4096):
        raise OptionError(f"--cpu-range is {span}, two CPUs such as 0-3 are needed")
    return frozenset(range(int(first), int(last) + 1))


def _listed(cpus: frozenset[int]) -> str:
    """0-3, 6"""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)
