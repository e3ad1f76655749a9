"""The search for a placement: what is tried first, and what solving finds until a whole session fits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from graphsched.fit.flags import placement_of
from graphsched.fit.judge import Judged, judged, planner_of
from graphsched.fit.solve import Pattern, dealt, kinds, solve
from graphsched.fit.work import EXPERTS, REST, Run, Spot, Work, held_by, spot_of, works
from graphsched.schedule.placement import Home
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.types.devices import HOST

_ROUNDS: Final = 6  # of solving, until what was found fits with the memory of its runs


@dataclass(frozen=True)
class Search:
    """The search of one model, with a policy of uploads and a micro-batch."""

    model: Model
    options: SessionOptions

    def candidates(self) -> Iterator[Judged]:
        """Experts on the host, all on the host where that may be fast, and what solving finds."""
        first = (
            self._with("experts on the host", cpu_moe=True) if self._is_free else self._with("as asked for")
        )
        yield first
        terms = self._terms(first)
        if self._is_free and sum(work.seconds[HOST] for work in terms.values()) < first.seconds:
            yield self._with("all on the host", n_gpu_layers=0)
        if self._is_free and (placed := self._by_memory(terms, _room(first))):
            yield self._with("as much as fits", **placed)
        yield from self._solved(first, terms)

    def _by_memory(self, terms: Mapping[Spot, Work], room: Mapping[str, int]) -> dict[str, Any]:
        """What other engines' fits choose, which know memory only: the fewest layers with experts on the host.

        Of models without experts the most layers on devices. {} if nothing fits so.
        """
        n_layer = self.model.config.n_layer
        has_experts = any(part in EXPERTS for _, part in terms)
        for n in range(n_layer + 1):
            placed: dict[str, Any] = (
                {"n_cpu_moe_first": n} if has_experts else {"n_gpu_layers": n_layer + 1 - n}
            )
            options = replace(self.options, placement=replace(self.options.placement, **placed))
            held = held_by(terms, planner_of(self.model, options).homes.placement)
            if all(held[on] <= size for on, size in room.items()):
                return placed
        return {}

    @property
    def _is_free(self) -> bool:
        """Whether nobody has said where layers or experts are."""
        p = self.options.placement
        return not (p.tensor_split or p.split_mode == "none" or p.experts_flags) and p.n_gpu_layers < 0

    def _with(self, name: str, **placed: Any) -> Judged:
        placement = replace(self.options.placement, **placed)
        return judged(name, self.model, replace(self.options, placement=placement))

    def _terms(self, first: Judged) -> Mapping[Spot, Work]:
        """The terms of the sum."""
        homes = first.step.planner.homes.placement.homes
        return works(_runs(first), first.step.planner.devices, lambda name: _fixed(homes, name))

    def _solved(self, first: Judged, terms: Mapping[Spot, Work]) -> Iterator[Judged]:
        """Solves with the room that runs leave; what does not fit then gets as much less the next time."""
        devices = first.step.planner.devices
        allowed, room = self._allowed(first), dict(_room(first))
        for _ in range(_ROUNDS):
            places = _places(terms, devices, allowed, room)
            if places is None:
                return
            placement = placement_of(places, devices, self.options.placement, keeps_layers=not self._is_free)
            last = judged("solved", self.model, replace(self.options, placement=placement))
            yield last
            if last.fits:
                return
            left = _room(last)
            room = {on: min(size - _step(last, on), left[on]) for on, size in room.items()}

    def _allowed(self, first: Judged) -> Mapping[Spot, tuple[str, ...]]:
        """The device of each part that options have placed."""
        homes = first.step.planner.homes
        n_layer, p = self.model.config.n_layer, self.options.placement
        found: dict[Spot, set[str]] = {}
        for leaf, on in first.step.resident():
            if leaf.kind != "weight":
                continue
            spot = spot_of(leaf.name, n_layer)
            is_said = (spot[1] in EXPERTS and p.experts_flags) or _fixed(homes.placement.homes, leaf.name)
            found.setdefault(spot, set()).add(on if is_said else "")
        allowed = {spot: tuple(places) for spot, places in found.items() if places and "" not in places}
        if not self._is_free:
            layers = (*homes.placement.layers, homes.placement.output)
            allowed |= {(i, REST): (device,) for i, device in enumerate(layers)}
        return allowed


def _step(last: Judged, on: str) -> int:
    """Bytes that a device gets less where it lacked some, so that something else is found each time."""
    return last.needs[on].total // 200 if last.spare.get(on, 0) < 0 else 0


def _places(
    terms: Mapping[Spot, Work],
    devices: Sequence[str],
    allowed: Mapping[Spot, tuple[str, ...]],
    room: Mapping[str, int],
) -> Mapping[int, Pattern] | None:
    """The pattern of each layer; None if nothing fits.

    Solved twice: layers go to devices in order, as -ngl and -ts have it, and all else is chosen anew for that.
    """
    found = kinds(terms, devices, allowed)
    if (free := solve(found, room)) is None:
        return None
    places = dealt(found, free, devices)
    rests = {(layer, REST): (dict(pattern)[REST],) for layer, pattern in places.items()}
    found = kinds(terms, devices, {**allowed, **rests})
    again = solve(found, room)
    return None if again is None else dealt(found, again, devices)


def _fixed(homes: Mapping[str, Home], name: str) -> str | None:
    """The device of a tensor that an override has placed, or that never moves."""
    home = homes[name]
    return home.device if home.cause.startswith(("-ot ", "input layer")) else None


def _runs(first: Judged) -> Sequence[Run]:
    """What a request consists of: steps of its answer, and micro-batches of its prompt."""
    goal = first.goal
    runs = [Run(first.token, goal.tg)] if goal.tg else []
    n = max(first.batches) if goal.pp else 0
    if n:
        depth = min(max(goal.pp // 2, n), first.step.n_kv)
        runs.append(Run(first.batches[n].at(depth), goal.slots * goal.pp / n))
    return runs


def _room(last: Judged) -> Mapping[str, int]:
    """Bytes for weights and caches, as far as they are known: all but the margin and what runs take."""
    taken = {on: need.arena + need.staging for on, need in last.needs.items()}
    return {
        on: need.has - taken[on] - (0 if on == HOST else last.margin)
        for on, need in last.needs.items()
        if need.has is not None
    }
