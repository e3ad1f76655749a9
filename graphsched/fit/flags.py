"""A placement as the flags that ask for it: -ngl, -ts and -ot."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from graphsched.fit.solve import Pattern
from graphsched.fit.work import PARTS, REST
from graphsched.option import Words, declarations
from graphsched.schedule.options import PlacementOptions
from graphsched.schedule.overrides import parse_overrides
from graphsched.types.devices import HOST


def placement_of(
    dealt: Mapping[int, Pattern],
    devices: Sequence[str],
    asked: PlacementOptions,
    *,
    keeps_layers: bool = False,
) -> PlacementOptions:
    """The options of a placement: what a user asked for, and what puts all else where its layer's pattern says.

    keeps_layers: what says where layers are stays as it was asked for.
    """
    rests = [dict(pattern)[REST] for _, pattern in sorted(dealt.items())]
    if keeps_layers:
        return replace(asked, overrides=(*asked.overrides, *parse_overrides(_rules(dealt, rests))))
    shares = tuple(float(rests.count(device)) for device in devices)
    on_host = rests[-1] == HOST and any(shares)  # the output, which counts as the last layer on devices
    n = sum(place != HOST for place in rests) + on_host
    rules = [*_rules(dealt, rests), *([rf"^output\.weight={HOST}"] if on_host else [])]
    overrides = (*asked.overrides, *parse_overrides(rules))
    if on_host:
        last = max(i for i, share in enumerate(shares) if share)
        shares = tuple(share + (i == last) for i, share in enumerate(shares))
    split = shares if len(devices) > 1 and any(shares) else ()
    return replace(asked, n_gpu_layers=n, tensor_split=split, overrides=overrides)


def _rules(dealt: Mapping[int, Pattern], rests: Sequence[str]) -> list[str]:
    """An override for each part and device that is not where its layer's rest is; of both experts' parts one."""
    apart: dict[tuple[str, str], list[int]] = {}
    for (layer, pattern), rest in zip(sorted(dealt.items()), rests, strict=True):
        for part, device in pattern:
            if part != REST and device != rest:
                apart.setdefault((part, device), []).append(layer)
    rules = []
    for device, layers in dict.fromkeys((d, tuple(layers)) for (_, d), layers in apart.items()):
        stems = [
            s for (p, d), found in apart.items() if d == device and tuple(found) == layers for s in PARTS[p]
        ]
        named = f"({'|'.join(stems)})" if len(stems) > 1 else stems[0]
        rules.append(rf"blk\.{_numbers(layers)}\.{named}\.={_named(device)}")
    return rules


def _named(device: str) -> str:
    """The name by which every engine knows a device: of a simulated one that of the card that it stands for."""
    return device.replace("sim", "CUDA")


def _numbers(layers: Sequence[int]) -> str:
    """A pattern of these numbers: [3-5], (7|1[0-9]), and of several tens alike (9|[1-4][0-9])."""
    tens: dict[tuple[int, ...], list[int]] = {}
    for ten, numbers in groupby(sorted(layers), lambda n: n // 10):
        tens.setdefault(tuple(n % 10 for n in numbers), []).append(ten)
    found = []
    for ends, heads in tens.items():
        found += [_digits(ends)] if heads[0] == 0 else []
        if rest := [head for head in heads if head]:
            found.append(_digits(rest) + _digits(ends))
    if max(layers) > 99:  # tens are no digits
        found = [str(layer) for layer in layers]
    return found[0] if len(found) == 1 else f"({'|'.join(found)})"


def _digits(digits: Sequence[int]) -> str:
    """One of these digits, in order."""
    if len(digits) == 1:
        return str(digits[0])
    is_range = list(digits) == list(range(digits[0], digits[-1] + 1)) and len(digits) > 2
    return f"[{digits[0]}-{digits[-1]}]" if is_range else f"[{''.join(map(str, digits))}]"


def typed(options: PlacementOptions) -> str:
    """The flags of all that is not as by default, as one types them."""
    found = []
    for name, option in declarations(PlacementOptions).items():
        value = getattr(options, name)
        if value == getattr(PlacementOptions, name):
            continue
        text = str(option.values.show(value))
        is_switch = isinstance(option.values, Words) and option.values.is_switch
        found.append(
            (option.off[0] if option.off else option.flag)
            if is_switch
            else f"{option.flag} {shlex.quote(text)}"
        )
    return " ".join(found)
