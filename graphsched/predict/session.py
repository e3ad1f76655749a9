"""The session that a plan is a part of: its memory, what was asked for and had an effect, and its whole prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphsched.gguf.given import Given
from graphsched.predict.memory import Need, needs
from graphsched.predict.plan import Plan, make_plan
from graphsched.predict.together import Together, together
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions


@dataclass(frozen=True)
class Prompt:
    """A prompt of several micro-batches, in plans of each; seconds are predicted, 0 without a described machine."""

    plans: tuple[Plan, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(plan.lengths["n_tokens"] for plan in self.plans)

    @cached_property
    def seconds(self) -> float:
        """Predicted seconds of all micro-batches."""
        return sum(plan.timeline.wall for plan in self.plans if plan.timeline)

    def as_json(self) -> dict[str, Any]:
        """Tokens, those of each micro-batch, and predicted seconds, None if nothing is."""
        sizes = [plan.lengths["n_tokens"] for plan in self.plans]
        return {"n_tokens": self.n_tokens, "micro_batches": sizes, "wall": self.seconds or None}

    def __str__(self) -> str:
        return f"{len(self.plans)} micro-batches of a prompt of {self.n_tokens} tokens"


@dataclass(frozen=True)
class SessionPlan:
    """What a session takes of each device, what was given with its effect, and the prompt if it has several runs.

    together: steps of more and more sequences, if several generate.
    """

    needs: Mapping[str, Need]
    given: tuple[Given, ...]
    prompt: Prompt | None = None
    together: tuple[Together, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether all devices have what it takes, as far as that is known."""
        return all(need.fits for need in self.needs.values())


def session_plan(model: Model, options: SessionOptions) -> SessionPlan:
    """The session that options ask for."""
    return session_of(make_plan(model, options, 1, 1, model.context(options)))


def session_of(plan: Plan, prompt: Sequence[Plan] = ()) -> SessionPlan:
    """The session that a run is planned for; `prompt`: the plans of all micro-batches, if it is one of several.

    Its runs take most with one token, or with a full micro-batch, in a full context.
    """
    reading, n = plan.planner.batching, plan.lengths["n_tokens"]
    others = (
        make_plan(plan.model, plan.options, rows, 1, reading.n_ctx, plan.planner.capacities)
        for rows in dict.fromkeys((1, reading.n_ubatch))
        if rows != n
    )
    plans = (plan, *others)
    given = plan.planner.given(each.asked for each in plans)
    whole = Prompt(tuple(prompt)) if prompt[1:] else None
    return SessionPlan(needs(plans), given, whole, tuple(together(plan)) if plan.n_sequences > 1 else ())


def prompt_plans(model: Model, options: SessionOptions, n_prompt: int) -> Iterator[Plan]:
    """A plan for each micro-batch of a prompt, in order; those of one length have one schedule, as in a session."""
    made: dict[int, Plan] = {}
    for first, n in model.batching(options).pieces(n_prompt):
        if n not in made:
            made[n] = make_plan(model, options, n, 1, first + n)
        yield made[n].at(first + n)
