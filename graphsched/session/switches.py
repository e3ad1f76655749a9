"""Switches, one line each: attention as one op, fusions of the graph, passes of the scheduler.

A fusion's name here is the name of its rule in the graph (a test compares them); its flags derive from it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.option import Option, names, read, switch


def _switch(name: str, help: str, also: str = "", auto: Any = None) -> Option:
    """The switch `--name`, which may have further names; each with `no-` behind its dashes turns it off."""
    flags = tuple(dict.fromkeys((*also.split(), f"--{name}")))
    off = tuple(f"--no-{flag[2:]}" if flag.startswith("--") else f"-no-{flag[1:]}" for flag in flags)
    return Option(flags, switch(auto), help, "1", off)


FUSIONS: Final[Mapping[str, Option]] = {
    "fmoe": _switch("fmoe", "compute up and gate of experts in one op", "-fmoe --fmoe --fused-moe"),
    "fused-mul-unary": _switch("fused-mul-unary", "compute activation and product in one op"),
    "fused-rms-norm": _switch("fused-rms-norm", "compute normalisation and weight in one op"),
    "fused-add-rms-norm": _switch("fused-add-rms-norm", "compute a sum and its normalisation in one op"),
    "fused-rope": _switch("fused-rope", "rotate queries and keys in one op"),
    "merge-qkv": _switch("merge-qkv", "compute queries, keys and values of a token in one op", "-mqkv"),
    "fused-topk-moe": _switch("fused-topk-moe", "choose experts in one op"),
    "fused-up-gate": _switch("fused-up-gate", "compute up, gate and activation of a token in one op", "-fug"),
    "fused-mul-multi-add": _switch("fused-mul-multi-add", "weight and sum experts in one op", "-mmad"),
    "fused-set-rows": _switch("fused-set-rows", "write keys and values to their caches in one op"),
}
SWITCHES: Final[Mapping[str, Option]] = {
    "fa": _switch(
        "fa", "attention as one op, not scores, softmax and sums apart", "-fa --fa --flash-attn", auto=True
    ),
    **FUSIONS,
    "traffic": _switch("traffic", "weightless expert ops run where that saves copies; 0 is the baseline"),
    "hoist": _switch("hoist", "device work goes before the host's part; 0 is the baseline"),
}


def read_off(given: Iterable[str]) -> frozenset[str]:
    """The names of switches that are off. OptionError for one that is none."""
    try:
        off = frozenset(names(given))
    except OptionError as e:
        raise OptionError(e.what, "off") from None
    for name in sorted(off):
        if name not in SWITCHES:
            raise OptionError(f"has no switch {name!r}; there are {', '.join(sorted(SWITCHES))}", "off")
    return off


def field(name: str) -> str:
    """The switch's name as a keyword: fused_rope."""
    return name.replace("-", "_")


def switched(off: Iterable[str], given: Mapping[str, Any]) -> frozenset[str]:
    """The names of switches that are off: `off`, changed by keywords in `given` that name a switch."""
    chosen = {n: read(field(n), o, given[field(n)]) for n, o in SWITCHES.items() if field(n) in given}
    return frozenset(n for n in {*off, *chosen} if not chosen.get(n, False))


def states(off: frozenset[str]) -> dict[str, bool]:
    """Each switch, as a keyword, and whether it is on."""
    return {field(name): name not in off for name in SWITCHES}
