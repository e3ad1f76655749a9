"""The judge of placements: the memory that a session takes with one, and a request on the virtual clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from graphsched.predict.memory import Need, needs
from graphsched.predict.plan import Plan, make_plan
from graphsched.run.device import device_names
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.planner import Planner
from graphsched.types.devices import HOST
from graphsched.types.goal import Goal

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Judged:
    """A candidate: what it is called, its options, a step of generation, micro-batches by their tokens.

    They are planned for a full context, which takes most memory; times are at the goal's lengths.
    """

    name: str
    options: SessionOptions
    step: Plan
    batches: Mapping[int, Plan]

    @property
    def goal(self) -> Goal:
        """What it is judged by."""
        return self.options.fit_for.within(self.step.planner.batching.n_each)

    @property
    def margin(self) -> int:
        """Bytes that each device is to have left."""
        return self.options.fit_target * MIB

    @property
    def token(self) -> Plan:
        """A step halfway through the answer."""
        depth = self.goal.pp + self.goal.tg // 2 + 1
        return self.step.at(min(depth, self.step.planner.batching.n_each))

    @cached_property
    def needs(self) -> Mapping[str, Need]:
        """The memory of a session."""
        return needs((self.step, *self.batches.values()))

    @property
    def spare(self) -> Mapping[str, int]:
        """Bytes that are left of each device beside the margin, and of the host; below 0 where it does not fit."""
        known = {on: need.left for on, need in self.needs.items() if need.left is not None}
        return {on: left - (0 if on == HOST else self.margin) for on, left in known.items()}

    @property
    def fits(self) -> bool:
        """Whether host and devices have room for it, the margin of each device left free."""
        return all(spare >= 0 for spare in self.spare.values())

    @property
    def lacks(self) -> str:
        """A sentence about the memory that lacks most."""
        on = min(self.spare, key=lambda name: self.spare[name])
        need = self.needs[on]
        if need.fits:
            return f"the memory of {on} has no {self.margin // MIB} MiB to spare (--fit-target)"
        return need.sentence

    @cached_property
    def prompt_seconds(self) -> float:
        """Predicted seconds of reading the goal's prompt."""
        pieces = self.step.planner.batching.pieces(self.goal.pp)
        return sum(_wall(self.batches[n].at(first + n)) for first, n in pieces)

    @cached_property
    def token_seconds(self) -> float:
        """Predicted seconds of a step of generation, halfway through the answer."""
        return _wall(self.token)

    @property
    def seconds(self) -> float:
        """Predicted seconds of a whole request, in each slot."""
        return self.goal.slots * self.prompt_seconds + self.goal.tg * self.token_seconds

    def as_json(self) -> dict[str, Any]:
        """Name, seconds, speeds, and whether it fits."""
        steps, prompt = self.token_seconds, self.prompt_seconds
        return {
            "name": self.name,
            "seconds": self.seconds,
            "prompt_per_second": self.goal.pp / prompt if prompt else None,
            "tokens_per_second": self.goal.slots / steps if steps else None,
            "fits": self.fits,
        }


def _wall(plan: Plan) -> float:
    return plan.timeline.wall if plan.timeline else 0.0


def judged(name: str, model: Model, options: SessionOptions) -> Judged:
    """A candidate with its plans: of a step, of the micro-batches of the goal's prompt, and of a full one."""
    reading = model.batching(options)
    goal = options.fit_for.within(reading.n_each)
    n = goal.slots
    reading.check_room(goal.pp, goal.tg)
    step = make_plan(model, options, n, n, reading.n_each, n_sequences=n)
    sizes = dict.fromkeys((reading.n_ubatch, *(size for _, size in reading.pieces(goal.pp))))
    known = step.planner.capacities
    batches = {size: make_plan(model, options, size, 1, reading.n_each, known) for size in sizes}
    return Judged(name, options, step, batches)


def planner_of(model: Model, options: SessionOptions) -> Planner:
    """A planner that knows homes and memory, without devices."""
    return Planner(model, options, device_names(options.devices), lambda on, node: True)


def overflows(model: Model, options: SessionOptions) -> bool:
    """Whether the weights alone are more than some device's memory, which no plan is needed to see."""
    planner, held = planner_of(model, options), Counter[str]()
    for name in model.file.tensors:
        held[planner.homes.placement.homes[name].device] += model.types[name].nbytes
    return any(held[on] > size for on, size in planner.capacities.items())


def best(found: Sequence[Judged]) -> Judged:
    """The fastest of those that fit; of none that does the one that lacks least."""
    fitting = [one for one in found if one.fits]
    if fitting:
        return min(fitting, key=lambda one: one.seconds)
    return max(found, key=lambda one: sum(min(spare, 0) for spare in one.spare.values()))
