"""The integer program of a placement: how many layers of each kind have which pattern of devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from graphsched.errors import OptionError
from graphsched.fit.work import REST, Spot, Work
from graphsched.types.devices import HOST

Pattern = tuple[tuple[str, str], ...]  # each part of a layer with its device
_MB: Final = 1e6
_GAP: Final = 1e-4  # of the best sum, within which any is good


@dataclass(frozen=True)
class Kind:
    """Layers that weigh and take the same: their numbers, and for each pattern its seconds and bytes by device."""

    layers: tuple[int, ...]
    patterns: Mapping[Pattern, tuple[float, Mapping[str, int]]]


def kinds(
    works: Mapping[Spot, Work], devices: Sequence[str], allowed: Mapping[Spot, Sequence[str]]
) -> list[Kind]:
    """The kinds of a model's layers; allowed: the devices of a part that options have placed."""
    by_layer: dict[int, dict[str, Work]] = {}
    for (layer, part), work in works.items():
        by_layer.setdefault(layer, {})[part] = work
    alike: dict[str, list[int]] = {}
    found: dict[str, dict[Pattern, tuple[float, Mapping[str, int]]]] = {}
    for layer, parts in sorted(by_layer.items()):
        places = {part: allowed.get((layer, part), (*devices, HOST)) for part in parts}
        patterns = _patterns(parts, places)
        key = repr([(p, f"{s:.6g}", sorted(b.items())) for p, (s, b) in patterns.items()])
        alike.setdefault(key, []).append(layer)
        found[key] = patterns
    return [Kind(tuple(layers), found[key]) for key, layers in alike.items()]


def _patterns(
    parts: Mapping[str, Work], places: Mapping[str, Sequence[str]]
) -> dict[Pattern, tuple[float, Mapping[str, int]]]:
    """Every way to place the parts of a layer, with its seconds and the bytes that each device then holds."""
    found: dict[Pattern, tuple[float, Mapping[str, int]]] = {}
    for devices in product(*(places[part] for part in parts)):
        at = dict(zip(parts, devices, strict=True))
        seconds, nbytes = 0.0, dict[str, int]()
        for part, work in parts.items():
            seconds += work.seconds[at[part]]
            seconds += sum(s for (to, a, b), s in work.sends.items() if at[part] == a and at.get(to) == b)
            for device, n in (*work.held.items(), (at[part], work.nbytes)):
                nbytes[device] = nbytes.get(device, 0) + n
        found[tuple(at.items())] = (seconds, nbytes)
    return found


def solve(found: Sequence[Kind], room: Mapping[str, int]) -> list[tuple[Pattern, ...]] | None:
    """The patterns of each kind's layers that take least seconds in all, each device having room; None if none fits.

    room: bytes of each device. OptionError where the solver is not installed.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp  # of the extra [fit]
    except ImportError:
        raise OptionError("needs the extra: pip install 'graphsched[fit]'", "fit") from None
    columns = [(kind, *each) for kind in found for each in kind.patterns.items()]
    one_each = np.array([[kind is own for own, _, _ in columns] for kind in found], np.float64)
    n_layers = np.array([len(kind.layers) for kind in found], np.float64)
    nbytes = np.array([[held.get(on, 0) / _MB for _, _, (_, held) in columns] for on in room])
    limits = np.array([size / _MB for size in room.values()])
    answer = milp(
        [seconds for _, _, (seconds, _) in columns],
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, np.inf),
        constraints=[
            LinearConstraint(one_each, n_layers, n_layers),
            LinearConstraint(nbytes, -np.inf, limits),
        ],
        options={"mip_rel_gap": _GAP},
    )
    if answer.x is None:
        return None
    counted = list(zip(columns, answer.x, strict=True))
    return [tuple(p for (own, p, _), n in counted if own is kind for _ in range(round(n))) for kind in found]


def dealt(
    found: Sequence[Kind], chosen: Sequence[Sequence[Pattern]], devices: Sequence[str]
) -> dict[int, Pattern]:
    """Which layers get which pattern: the first ones those whose rest is on the host, then device after device.

    Layers are shared out so, in order; where kinds of layers do not go in that order the nearest pattern is taken.
    """
    order = [HOST, *devices]
    left = {kind.layers[0]: list(patterns) for kind, patterns in zip(found, chosen, strict=True)}
    rests = sorted((dict(p)[REST] for patterns in left.values() for p in patterns), key=order.index)
    first_of = {layer: kind.layers[0] for kind in found for layer in kind.layers}
    places = {}
    for layer, rest in zip(sorted(first_of), rests, strict=True):
        patterns = left[first_of[layer]]
        best = min(patterns, key=lambda p: dict(p)[REST] != rest)
        patterns.remove(best)
        places[layer] = tuple((part, rest if part == REST else device) for part, device in best)
    return places
